"""Sliders, clicks that make masks, and keystroke-level times, for the bench of the page."""

import itertools
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from page_server import PageServer
from playwright.sync_api import Browser
from web_page import WebPage, open_page

from bench import fixtures
from bench.paired_timing import Figure, against, latency
from secondlook.store import open_store

TRIED = 12
TURNS, PAUSE_MS = 40, 300
CLICKS, TOGETHER = 40, 4
LARGE = 10_000
CLASSES = ("person", "car", "dog", "ball", "helmet", "tree")
KEY_S, POINT_S, BUTTON_S, HOME_S, MENTAL_S = 0.2, 1.1, 0.1, 0.4, 1.35
"""Operators of Card, Moran and Newell, "The Keystroke-Level Model for User Performance Time with
Interactive Systems", Communications of the ACM 23 (1980): K of an average skilled typist, P, B of
a press or a release, H between keyboard and pointer, and M, once before each sequence, as what
follows is one unit that is anticipated (their rules 1 and 2). The page's own time is left out."""
TURN_SLIDER = """([value]) => new Promise((done) => {
  const slider = [...document.querySelectorAll(".slider input")][1];
  const table = document.querySelector(".tryout aside");
  const began = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => done(performance.now() - began);
      channel.port2.postMessage(0);
    });
  }).observe(table, {subtree: true, childList: true, characterData: true});
  slider.value = value;
  slider.dispatchEvent(new InputEvent("input", {bubbles: true}));
})"""
"""From a slider's event to the task after the frame that shows what it decided on the image in
view."""
PREVIEW = """async ([run, accept]) => {
  const began = performance.now();
  const answer = await fetch("/secondlook.v1.BrowseService/PreviewDecisions", {
    method: "POST",
    headers: {"Content-Type": "application/json", "Connect-Protocol-Version": "1"},
    body: JSON.stringify({run, classes: [{accept}], count: true}),
  });
  const counted = Number((await answer.json()).imagesCounted);
  return [performance.now() - began, counted];
}"""
CLICK = """([x, y]) => new Promise((done) => {
  const target = document.querySelector(".beside canvas.viewer");
  const around = target.getBoundingClientRect();
  const at = {clientX: around.x + x * around.width, clientY: around.y + y * around.height};
  const pointer = (kind) => target.dispatchEvent(
    new PointerEvent(kind, {bubbles: true, pointerId: 1, button: 0, ...at}));
  target.setPointerCapture = () => undefined;
  const began = performance.now();
  const painted = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...rest) {
    painted.call(this, image, ...rest);
    if (this.canvas !== target || !(image instanceof OffscreenCanvas) || image === window.last)
      return;
    window.last = image;
    CanvasRenderingContext2D.prototype.drawImage = painted;
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now() - began);
    channel.port2.postMessage(0);
  };
  pointer("pointerdown");
  pointer("pointerup");
  setTimeout(() => done(null), 5000);
})"""
"""From a click to the task after the frame in which its mask was drawn; null where no new one was
drawn within 5 s."""
WATCH_HANDS = """() => {
  window.hands = [];
  let down = null;
  addEventListener("keydown", () => window.hands.push("key"), true);
  addEventListener("pointerdown", (event) => { down = event; window.hands.push("down"); }, true);
  addEventListener("pointerup", (event) => {
    const far = Math.hypot(event.x - down.x, event.y - down.y) > 4;
    window.hands.push(...(far ? ["drag", "up"] : ["up"]));
  }, true);
}"""
"""Notes what the hands of a person do."""


def flows(browser: Browser) -> list[Figure | str]:
    """Figures of a server of their own, with the embedded models."""
    # bench.page imports this module, and writes the same runs.
    from bench.page import write_scenes
    from bench.stored_runs import write_run
    from secondlook.review.queue_order import queue_items
    from secondlook_client.values import ReviewOrder

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with open_store(data) as store:
            write_run(store, "large", LARGE)
            write_scenes(store, "real")
            asked = list(queue_items(store, "real", ReviewOrder.RANDOM))
            store.reviews.create_queue("masks", "real", itertools.islice(asked, 40), "random")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        with (
            PageServer(data, port, "embedded") as server,
            open_page(browser, server.address, person="robot") as tab,
        ):
            rows: list[Figure | str] = [*_sliders(tab), *_masks_and_hands(tab)]
            assert tab.problems == [], tab.problems[:3]
            return rows


def _sliders(tab: WebPage) -> list[Figure]:
    page = tab.page
    tab.go("#/try")
    images: Any = [
        {"name": f"{place}.jpg", "mimeType": "image/jpeg", "buffer": content}
        for place, content in enumerate(fixtures.jpegs(TRIED))
    ]
    page.get_by_label("Drop images").set_input_files(images)
    page.get_by_label("Classes, one a line").fill("\n".join(CLASSES))
    page.get_by_role("button", name="Label", exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="detached", timeout=300_000)
    times = []
    for turn in range(TURNS):
        times.append(page.evaluate(TURN_SLIDER, [str((0.99, 0.05)[turn % 2])]))
        page.wait_for_timeout(PAUSE_MS)  # the other images are decided meanwhile
    whole = [page.evaluate(PREVIEW, ["large", accept]) for accept in (0.7, 0.8, 0.9)]
    assert {counted for _, counted in whole} == {LARGE}
    slowest = max(time for time, _ in whole)
    return [
        latency(f"slider → boxes of the image in view changed, {TRIED} tried", times, 100),
        against(f"thresholds → counts of {LARGE:,} images, slowest of 3", slowest, 2000, "ms"),
    ]


def _masks_and_hands(tab: WebPage) -> list[Figure | str]:
    page = tab.page
    tab.go("#/review/masks")
    tab.shown_item()
    page.evaluate(WATCH_HANDS)
    right = _hands(tab, lambda: tab.press("y"))

    def draw() -> None:
        tab.press("o")
        around = page.locator("canvas.viewer").bounding_box()
        assert around is not None
        x, y = around["x"], around["y"]
        page.mouse.move(x + 30, y + 30)
        page.mouse.down()
        page.mouse.move(x + around["width"] - 40, y + around["height"] - 40, steps=3)
        page.mouse.up()
        tab.press("Enter")

    def click() -> None:
        tab.press("o")
        page.get_by_text("Click on the object for its mask").wait_for()
        with page.expect_response("**/Segment"):
            page.locator("canvas.viewer").click()
        page.get_by_role("button", name="Save the outline").wait_for()
        tab.press("Enter")

    drawn, clicked = _hands(tab, draw), _hands(tab, click)
    tab.press("o")
    page.get_by_text("Click on the object for its mask").wait_for()
    page.evaluate(CLICK, [0.5, 0.5])  # encodes the image
    times = []
    for number in range(CLICKS):
        if number % TOGETHER == 0:  # another object: a mask has a few clicks
            tab.press("Escape", "o")
            page.get_by_text("Click on the object for its mask").wait_for()
        place = [0.42 + 0.02 * (number % 9), 0.42 + 0.02 * (number // 9)]
        times.append(page.evaluate(CLICK, place))
    shown = [time for time in times if time is not None]
    return [
        latency("click → mask shown, behind the encode", shown, 200),
        f"{len(shown)} of {CLICKS} clicks showed a new mask within 5 s.",
        against("keystroke-level time of “right”", keystroke_s(right), 1.2, "s"),
        against("the same of an outline drawn anew", keystroke_s(drawn), 6, "s"),
        against("the same of an outline by a click", keystroke_s(clicked), 6, "s"),
    ]


def _hands(tab: WebPage, deed: Any) -> list[str]:
    """What the hands did until the next item was asked about."""
    item = tab.shown_item()
    tab.page.evaluate("() => { window.hands = []; }")
    deed()
    tab.page.locator(f"canvas.crop:not([data-item='']):not([data-item='{item}'])").wait_for()
    done: list[str] = tab.page.evaluate("window.hands")
    return done


def keystroke_s(hands: Sequence[str]) -> float:
    """Seconds that a practised person takes for a sequence, by the keystroke-level model: one M,
    and the operators of "key", "down" (P and B), "drag" (P) and "up" (B), with H between the
    devices. The hands begin at the keyboard."""
    costs = {"key": KEY_S, "down": POINT_S + BUTTON_S, "drag": POINT_S, "up": BUTTON_S}
    devices = ["key", *("key" if one == "key" else "pointer" for one in hands)]
    homed = sum(HOME_S for before, after in itertools.pairwise(devices) if before != after)
    return MENTAL_S + homed + sum(costs[one] for one in hands)
