"""The page in Debian's Chromium against a server in a process of its own, both on these cores.

*Key → crop*: from the key's event to the task after the frame in which the next crop was drawn; a
robot answers a queue of 10,000 boxes of 48 rendered scenes. *Frames a second*: frames that the page
made while it was scrolled, panned or zoomed at each of them. The run of 100,000 images has no image
files: their thumbnails come from the bench, and what a server needs for them is not in these
figures. *Memory*: the proportional set size of the largest renderer process, which has the script,
the decoded images and the canvases of the page; not the browser's own processes. *Slider*: to the
frame that shows what it decides on the image in view in *Try*, of the embedded models' boxes; for a
run of 10,000 the page's call that counts under other thresholds. *Keystroke-level time*: operators
of Card, Moran and Newell (1980) for the events that the page got, K 0.2 s, P 1.1 s, B 0.1 s, H 0.4
s, and one M of 1.35 s for the decision before each sequence; the page's own time is not in it.
"""

import gzip
import itertools
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from page_server import PageServer
from playwright.sync_api import Browser, Page, Route
from stored import done_item
from web_page import WebPage, open_browser, open_page

from bench import fixtures
from bench.page_flows import flows
from bench.paired_timing import Figure, against, latency
from bench.stored_runs import LABELLED, labelled, write_run
from secondlook.review.queue_order import queue_items
from secondlook.server.bridge.page_files import FOLDER
from secondlook.store import Store, open_store
from secondlook.store.images import ImageMeasurement, NewImage, add_images, measure_images
from secondlook.store.runs import create_run
from secondlook_client.values import NewReview, ReviewAnswer, ReviewOrder

ITEMS = 10_000
KEYS = 300
BIG = 100_000
BOXES = 1_000
FRAMES = 150
THUMBNAIL = 256
"""Longest side of a thumbnail, pixels, as the page asks for it."""
SHOWN = ".image-grid canvas[data-shown]"
"""The grid once its first thumbnail is painted."""
ANSWERS = {
    "y": ReviewAnswer.RIGHT,
    "n": ReviewAnswer.WRONG,
    "u": ReviewAnswer.UNSURE,
}
WATCH_KEYS = """() => {
  window.times = []; window.said = [];
  const crop = () => document.querySelector("canvas.crop");
  let began = 0;
  addEventListener("keydown", (event) => {
    const item = crop()?.dataset.item;
    if (!item || !"ynu".includes(event.key)) return;
    window.said.push([item, event.key]);
    began = event.timeStamp;
  }, true);
  const painted = () => {
    const from = began;
    if (!from || !crop()?.dataset.item) return;
    began = 0;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.times.push(performance.now() - from);
      channel.port2.postMessage(0);
    });
  };
  new MutationObserver(painted).observe(document.getElementById("app"),
    {subtree: true, childList: true, attributes: true, attributeFilter: ["data-item"]});
}"""
"""Notes what was answered, and how long each key took until the next crop was painted."""
FRAMES_WHILE = """([frames, what, where]) => new Promise((done) => {
  const target = document.querySelector(where);
  const around = target.getBoundingClientRect();
  const at = {clientX: around.x + around.width / 2, clientY: around.y + around.height / 2};
  const pointer = (kind, x) => target.dispatchEvent(new PointerEvent(kind,
    {bubbles: true, pointerId: 1, ...at, clientX: at.clientX + x}));
  const steps = {
    scroll: () => { target.scrollTop += 60; },
    zoom: (n) => target.dispatchEvent(new WheelEvent("wheel",
      {...at, deltaY: n % 40 < 20 ? -40 : 40, cancelable: true})),
    pan: (n) => pointer("pointermove", 5 + 150 * Math.sin(n / 10)),
  };
  target.setPointerCapture = () => undefined;
  if (what === "pan") pointer("pointerdown", 0);
  let count = 0, began = 0;
  const next = (now) => {
    began ||= now;
    if (count === frames) return done(frames / ((now - began) / 1000));
    steps[what](count++);
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
})"""
"""Frames a second while the page is scrolled, zoomed or panned at each."""


def run() -> list[Figure | str]:
    """Figures of the review, of an image with many boxes, of a large run, and of the script."""
    size = sum(len(gzip.compress(path.read_bytes())) for path in FOLDER.glob("*.js"))
    rows: list[Figure | str] = [against("script, gzipped", size / 1000, 250, "kB")]
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        data = Path(folder) / "data"
        with open_store(data) as store:
            crowded = _write(store)
        with PageServer(data, free_port()) as server:
            with shown_page(browser, server, "#/review/keys") as tab:
                rows.append(_keys(tab))
            with shown_page(browser, server, f"#/browse/real/{crowded}") as tab:
                rows += _crowded(tab)
            rows += _large(browser, server)
            rows += flows(browser)
    load = f"{os.getloadavg()[1]:.1f} programs wanted a core at the end (load average, 5 minutes)"
    return [*rows, f"{load}; those of the bench are two or three of them."]


def _write(store: Store) -> int:
    """The runs and queues; gives the cursor of an image with very many boxes."""
    write_run(store, "big", BIG)
    write_scenes(store, "real")
    write_queue(store, "real", "keys")
    (first,) = store.results.page(store.results.run("real").id, 0, 1)
    result = first.labelled
    _add_boxes(store, result.sha256, result.width, result.height)
    return first.cursor


def write_queue(store: Store, run: str, name: str) -> None:
    """A queue of ``ITEMS`` boxes: those of the run, again and again."""
    asked = [*queue_items(store, run, ReviewOrder.RANDOM)]
    cycled = itertools.islice(itertools.cycle(asked), ITEMS)
    store.reviews.create_queue(name, run, cycled, "random")


def write_scenes(store: Store, name: str) -> None:
    """A run of the rendered scenes, with their files."""
    settings = fixtures.pipeline().settings.recorded()
    with store.database.writing() as connection:
        made = create_run(connection, name, "folder", fixtures.ontology(), settings)
        kept, measured = [], []
        files = zip(fixtures.jpegs(LABELLED), labelled(), strict=True)
        for place, (content, result) in enumerate(files):
            sha256 = store.blobs.put(content)
            image = add_images(connection, [NewImage(sha256, len(content), "jpg")])[sha256]
            measured.append(ImageMeasurement(image, result.width, result.height, 0))
            item = done_item(connection, made, place, f"{place:03d}.jpg", len(content), image)
            kept.append((item, image, result))
        measure_images(connection, measured)
        store.results.add(connection, made, kept)


def _add_boxes(store: Store, sha256: str, width: int, height: int) -> None:
    """Many boxes that somebody added to one image."""
    chosen = random.Random(1)
    names = fixtures.ontology().names
    boxes = []
    for _ in range(BOXES):
        x, y = chosen.uniform(0, width - 30), chosen.uniform(0, height - 30)
        box = (x, y, x + chosen.uniform(5, 30), y + chosen.uniform(5, 30))
        missing = ReviewAnswer.MISSING
        boxes.append(NewReview(sha256, chosen.choice(names), box, missing, person="bench"))
    store.reviews.add(boxes)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def shown_page(browser: Browser, server: PageServer, at: str) -> Iterator[WebPage]:
    """The page at an address behind its "#"; at the end nothing went wrong in it."""
    with open_page(browser, server.address, person="robot") as tab:
        tab.go(at)
        yield tab
        assert tab.problems == [], tab.problems[:3]


def _keys(tab: WebPage) -> Figure:
    """From a key to the next crop, at ten keys a second."""
    tab.shown_item()
    tab.page.evaluate(WATCH_KEYS)
    for key in itertools.islice(itertools.cycle(ANSWERS), KEYS):
        tab.shown_item()
        tab.press(key)
        tab.page.wait_for_timeout(100)
    tab.wait_sent()
    return latency("key → next crop painted", tab.page.evaluate("window.times"), 50)


def _crowded(tab: WebPage) -> list[Figure]:
    """Frames a second on an image with very many boxes."""
    tab.page.locator(".judgements tbody tr").nth(BOXES - 1).wait_for()
    tab.page.wait_for_timeout(500)
    name = f"{{}} of {BOXES:,} boxes"
    return [_frames(tab.page, name.format(one), one, "canvas.viewer") for one in ("pan", "zoom")]


def _frames(page: Page, name: str, what: str, where: str) -> Figure:
    rates = [page.evaluate(FRAMES_WHILE, [FRAMES, what, where]) for _ in range(5)]
    rate, ratio = statistics.median(rates), [one / 50 for one in rates]
    return Figure(
        name=f"frames a second: {name}",
        bar="≥ 50",
        ours=rate,
        baseline=50,
        unit="a second",
        ratio=statistics.median(ratio),
        low=min(ratio),
        high=max(ratio),
        rounds=len(rates),
        met=rate >= 50,
    )


def _large(browser: Browser, server: PageServer) -> list[Figure | str]:
    """The grid of the large run: first thumbnails, memory and frames a second."""
    thumbnails = fixtures.jpegs(LABELLED, THUMBNAIL)
    numbers = itertools.count()

    def thumbnail(route: Route) -> None:
        content = thumbnails[next(numbers) % len(thumbnails)]
        route.fulfill(body=content, content_type="image/jpeg")

    paints = []
    for _ in range(5):
        with shown_page(browser, server, "#/review") as tab:
            tab.page.route("**/images/**", thumbnail)
            tab.page.goto("about:blank")
            began = time.perf_counter()
            tab.page.goto(f"{server.address}/#/browse/big")
            tab.page.locator(SHOWN).wait_for()
            paints.append((time.perf_counter() - began) * 1000)
            tab.problems.clear()  # the empty page is another origin
    with shown_page(browser, server, "#/browse/big") as tab:
        tab.page.route("**/images/**", thumbnail)
        tab.page.locator(SHOWN).wait_for()
        rate = _frames(tab.page, f"scroll of {BIG:,} images", "scroll", ".image-grid")
        for place in range(40):
            share = place / 39
            jump = "(share) => { const e = document.querySelector('.image-grid');"
            tab.page.evaluate(f"{jump} e.scrollTop = e.scrollHeight * share }}", share)
            tab.page.wait_for_timeout(150)
        memory = against("memory of the page, scrolled through", _memory_mb(browser), 300, "MB")
    first = f"first thumbnails of {BIG:,} images, the first time"
    again = f"first thumbnails of {BIG:,} images, median of 4 more"
    return [
        against(first, paints[0], 1500, "ms"),
        against(again, statistics.median(paints[1:]), 1500, "ms"),
        memory,
        rate,
    ]


def _memory_mb(browser: Browser) -> float:
    """Private and shared memory of the largest page process, its share of what others have too."""
    found: Any = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
    pages = [one["id"] for one in found["processInfo"] if one["type"] == "renderer"]
    return max(_pss_mb(page) for page in pages)


def _pss_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
