"""Answers in the page while its server is killed: each must be in the store once.

A robot presses 20 keys a second at most, as fast as crops come, in Debian's Chromium; the server is
killed (``kill -9``) at random moments and started again. The page keeps what was said until the
server has it, and goes on by itself. Whatever waits longer than a minute beyond its time ends the
bench, and says what it was.
"""

import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from page_server import PageServer
from playwright.sync_api import Browser
from web_page import WebPage, open_browser

from bench.page import ANSWERS, ITEMS, WATCH_KEYS, free_port, shown_page, write_queue, write_scenes
from bench.paired_timing import Figure
from secondlook.store import open_store

SECONDS = float(os.environ.get("SECONDLOOK_SECONDS", "300"))
KILLS = int(os.environ.get("SECONDLOOK_KILLS", "20"))
QUEUE = "robot"
SENT_MS = 60_000
"""What was said last reaches the server within this time."""
SPARE_S = 60.0
"""Beyond what everything takes: the browser is ended then, as its calls have no end of their own.
"""


def run() -> list[Figure | str]:
    """What the store has of the robot's answers."""
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        data = Path(folder) / "data"
        with open_store(data) as store:
            write_scenes(store, "real")
            write_queue(store, "real", QUEUE)
        with PageServer(data, free_port()) as server:
            return [_robot(browser, server, data)]


def _robot(browser: Browser, server: PageServer, data: Path) -> str:
    with shown_page(browser, server, f"#/review/{QUEUE}") as tab:
        tab.shown_item()
        tab.page.evaluate(WATCH_KEYS)
        with _ended_after(browser, SECONDS + SENT_MS / 1000 + SPARE_S):
            kills = _press_and_kill(tab, server)
            tab.page.locator("[data-waiting='0']").wait_for(state="attached", timeout=SENT_MS)
            said = tab.page.evaluate("window.said")
    server.kill()
    with open_store(data) as store:
        items = store.reviews.items(QUEUE, limit=ITEMS)
        kept = {str(item.id): review.answer for item, review in items if review}
        rows = len(store.reviews.history(None, 0, 10 * ITEMS))
    server.start()
    lost = sum(kept.get(item) != ANSWERS[key] for item, key in said)
    return (
        f"The robot gave {len(said):,} answers in {SECONDS:.0f} s while the server was killed "
        f"{kills} times: {lost} lost, {rows - len(said)} doubled. The page recovered by itself "
        "each time."
    )


def _press_and_kill(tab: WebPage, server: PageServer) -> int:
    """Twenty keys a second at most, for as long as crops come; how often the server was killed."""
    chosen, keys = random.Random(7), itertools.cycle(ANSWERS)
    began = time.monotonic()
    moments = sorted(chosen.uniform(2, SECONDS - 8) for _ in range(KILLS))
    kills = 0
    while (now := time.monotonic() - began) < SECONDS:
        if moments and now >= moments[0]:
            moments.pop(0)
            server.kill()
            tab.press(*itertools.islice(keys, 2))  # nobody hears them now
            server.start()
            kills += 1
        tab.press(next(keys))
        tab.page.wait_for_timeout(50)
    return kills


@contextmanager
def _ended_after(browser: Browser, limit_s: float) -> Iterator[None]:
    """Ends the browser at that time, so that a call which it never answers fails."""
    found: Any = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
    process = next(int(one["id"]) for one in found["processInfo"] if one["type"] == "browser")
    timer = threading.Timer(limit_s, os.kill, (process, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
