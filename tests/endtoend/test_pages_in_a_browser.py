"""The pages in a real browser: what their script draws, finds, sorts and enlarges."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import BROWSER, BROWSERS, document
from html_page import Page
from labelled import judged, picked, result
from masks import disc, with_mask
from PIL import Image as PILImage

from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook_client.values import LabelResult, Outcome

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"none of these browsers is installed: {', '.join(BROWSERS)}"
)
HOSTILE = "</script><img src=x onerror=\"document.title='hostile'\">"
LEFT, RIGHT = (10.0, 60.0, 90.0, 200.0), (200.0, 60.0, 300.0, 200.0)
IMAGES: list[tuple[str, LabelResult]] = [
    ("b10.jpg", result(judged("dog", LEFT), judged("dog", LEFT, Outcome.REJECT))),
    ("b9.jpg", result(judged("cat", LEFT, Outcome.UNSURE), judged("dog", RIGHT))),
    (HOSTILE, result(judged(HOSTILE, RIGHT))),
    ("empty.jpg", result()),
]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A gallery, with one of its images beside it."""
    originals = tmp_path / "images"
    originals.mkdir()
    PILImage.new("RGB", (2000, 1500)).save(originals / "b9.jpg")
    path = tmp_path / "gallery.html"
    best = picked(IMAGES, 9, cursors=range(71, 75))
    stats = RunStats.of(one for _, one in IMAGES)
    pixels = np.zeros((240, 320, 3), np.uint8)
    gallery.write(
        path, "title", stats, best, lambda name: pixels, classes=["dog"], originals=["images/"]
    )
    return path


def rendered(path: Path) -> str:
    """The document when its scripts have run."""
    return document(path, "--virtual-time-budget=60000")


def probed(path: Path, script: str) -> Any:
    """What ``script``, the body of an async function after the page's own script, returns."""
    script = f"""(async () => {{
      const wait = (ms) => new Promise((done) => setTimeout(done, ms));
      const shown = async (selector) => {{
        while (!document.querySelector(selector)) await wait(50);
        return document.querySelector(selector);
      }};
      const key = (key) => document.body.dispatchEvent(
        new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      const value = await (async () => {{ {script} }})();
      const out = document.createElement("pre");
      out.id = "probe";
      out.textContent = btoa(encodeURIComponent(JSON.stringify(value)));
      document.body.append(out);
    }})();"""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = path.read_text(encoding="utf-8")
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    found = re.search(r'<pre id="probe">(.*?)</pre>', rendered(path))
    assert found, "the page's script failed"
    return json.loads(unquote(base64.b64decode(found[1]).decode()))


def test_boxes_are_drawn_and_nothing_hostile_runs(page: Path) -> None:
    text = rendered(page)
    assert "<title>title</title>" in text
    drawn = Page(text)
    kinds = [a["class"] for a in drawn.all("g", "box")]
    assert sorted(kinds) == ["box dashed", "box solid", "box solid", "box solid"]
    assert len(drawn.all("span", "tag")) == 4 and "? cat" in drawn.texts("span")
    assert "4 of 4" in drawn.texts("output")
    assert not any("onerror" in attributes for _, attributes in drawn.seen)


def test_masks_are_filled_over_the_image(tmp_path: Path) -> None:
    pixels = disc(320, 240, LEFT)
    found = [("a.jpg", result(with_mask(judged("dog", LEFT), pixels), judged("dog", RIGHT)))]
    path = tmp_path / "gallery.html"
    stats = RunStats.of(one for _, one in found)
    black = np.zeros((240, 320, 3), np.uint8)
    gallery.write(path, "title", stats, picked(found, 9), lambda name: black, classes=["dog"])
    drawn = probed(
        path,
        """const mask = await shown(".card .mask");
        const at = (x, y) => mask.isPointInFill(new DOMPoint(x, y));
        document.querySelector(".card button").click();
        document.querySelector("#panel .head").click();
        return {
          masks: document.querySelectorAll(".card .mask").length,
          hole: at(50, 130), inside: at(20, 130), outside: at(200, 130),
          facts: document.querySelector("#panel dl").textContent,
        };""",
    )
    assert (drawn["masks"], drawn["hole"], drawn["inside"], drawn["outside"]) == (
        1,
        False,
        True,
        False,
    )
    facts = f"{pixels.sum():,} pixels, quality 0.90, stability 0.95, scripted@1"
    assert facts in drawn["facts"]


def test_images_are_found_sorted_and_filtered(page: Path) -> None:
    found = probed(
        page,
        """
        const shown = () => [...document.querySelectorAll(".card:not([hidden]) .name")]
          .map((name) => name.textContent);
        const set = (id, value, event) => {
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event(event));
        };
        const steps = {};
        set("order", "name", "change");
        steps.byName = shown();
        set("search", "B", "input");
        steps.found = shown();
        set("search", "", "input");
        document.querySelector('.class[data-class="0"]').click();
        steps.ofClass = shown();
        document.querySelector('.class[data-class="0"]').click();
        const flag = [...document.querySelectorAll("#flag option")]
          .find((option) => option.textContent.startsWith("nothing proposed"));
        set("flag", flag.value, "change");
        steps.empty = shown();
        set("flag", "", "change");
        key("3");
        await wait(100);
        steps.boxes = document.querySelectorAll(".card g.box").length;
        return steps;
        """,
    )
    assert found["byName"] == [HOSTILE, "b9.jpg", "b10.jpg", "empty.jpg"]
    assert found["found"] == ["b9.jpg", "b10.jpg"]
    assert found["ofClass"] == ["b9.jpg", "b10.jpg"]
    assert found["empty"] == ["empty.jpg"] and found["boxes"] == 5


def test_large_view_has_the_original_the_evidence_and_the_label_id(page: Path) -> None:
    found = probed(
        page,
        """
        document.querySelector(".card .frames").click();
        await wait(500);
        const dialog = document.getElementById("viewer");
        const text = (query) => [...dialog.querySelectorAll(query)].map((node) => node.textContent);
        const steps = { open: dialog.open, name: text("#v-name"), listed: text(".head b") };
        key("ArrowDown");
        steps.details = text(".said.selected dd");
        steps.width = dialog.querySelector(".fit img").naturalWidth;
        const before = dialog.querySelector(".fit").clientWidth;
        key("+");
        steps.zoom = dialog.querySelector(".fit").clientWidth / before;
        key("ArrowRight");
        steps.next = text("#v-name");
        await wait(500);
        steps.thumbnail = dialog.querySelector(".fit img").naturalWidth;
        return steps;
        """,
    )
    assert found["open"] and found["name"] == ["b9.jpg"]
    assert sorted(found["listed"]) == ["cat", "dog"]
    assert "72.1copy" in found["details"] and "Is this a dog? (crop)" in found["details"]
    assert found["width"] == 2000
    assert found["zoom"] == pytest.approx(1.5, rel=0.01)
    assert found["next"] != found["name"] and found["thumbnail"] == 320
