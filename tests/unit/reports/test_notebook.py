"""What a notebook shows: sound HTML whatever the names, and no more than a bounded amount of it."""

import numpy as np
import pytest
from html_page import Page
from labelled import judged, result

from secondlook.core.types import Pixels
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports.notebook import FAILURES, SHOWN, notebook_html
from secondlook_client.errors import BadImage
from secondlook_client.values import LabelResult, Outcome

BOX = (10.0, 20.0, 60.0, 90.0)
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\udc80\u202e"


def noise(name: str) -> Pixels:
    return np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)


def shown(results: list[tuple[str, LabelResult]], classes=("dog",), failed=(), load=noise) -> str:
    stats = RunStats.of(one for _, one in results)
    return notebook_html(stats, classes, results, load, failed)


def test_counts_and_images_are_shown() -> None:
    mixed = result(judged("dog", BOX), judged("dog", (1, 1, 9, 9), Outcome.UNSURE))
    text = shown([("a.jpg", mixed)], ("dog", "cat"))
    page = Page(text)
    (image,) = page.all("img", "")
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert image["alt"] == "a.jpg: 1 label, 1 unsure"
    for said in ("1 labelled image<", "1 label,", "1 unsure", "dog <b>1</b>", "cat <b>0</b>"):
        assert said in text


def test_an_empty_image_says_why() -> None:
    assert "nothing proposed" in shown([("a.jpg", result())])
    rejected = result(judged("dog", BOX, Outcome.REJECT))
    assert "1 rejected (all rejected)" in shown([("a.jpg", rejected)])


def test_names_of_strangers_are_text() -> None:
    one = result(judged(HOSTILE, BOX))
    text = shown([(HOSTILE, one)], (HOSTILE,), [(HOSTILE, HOSTILE)])
    page = Page(text)
    assert not page.all("script", "")
    assert len(page.all("img", "")) == 1
    assert "49" not in text.split("base64,")[0]


def test_a_large_run_stays_small() -> None:
    many = [(f"{n}.jpg", result(*[judged(f"c{k}", BOX) for k in range(50)])) for n in range(200)]
    names = [f"c{k}" for k in range(50)]
    text = shown(many, names, [(f"{n}.png", "broken" * 100) for n in range(900)])
    assert len(Page(text).all("img", "")) == SHOWN
    assert len(text) < 1_500_000, "noise is the worst that a JPEG can be"
    for said in ("and 188 more", "and 42 more classes", f"and {900 - FAILURES} more in"):
        assert said in text


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (1, 1)])
def test_an_image_of_any_shape_is_shown(width: int, height: int) -> None:
    def load(name: str) -> Pixels:
        return np.zeros((height, width, 3), np.uint8)

    one = result(judged("dog", (0, 0, width, height)), width=width, height=height)
    assert len(Page(shown([("a.jpg", one)], load=load)).all("img", "")) == 1


def test_an_image_that_is_gone_leaves_its_reason() -> None:
    def load(name: str) -> Pixels:
        raise BadImage("the image is gone")

    text = shown([("a.jpg", result(judged("dog", BOX)))], load=load)
    assert not Page(text).all("img", "") and "the image is gone" in text
