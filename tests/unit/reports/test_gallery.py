"""The gallery: sound HTML whatever the names, and the doubtful images first."""

import json

import numpy as np
import pytest
from html_page import Page
from labelled import judged, result

from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook_client.errors import BadImage
from secondlook_client.values import Outcome

BOX = (10.0, 20.0, 60.0, 90.0)
WIDE = (0.0, 20.0, 320.0, 90.0)
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{7*7}}$title"


def load(name):
    return np.full((240, 320, 3), 90, dtype=np.uint8)


def written(tmp_path, images, limit=200, loader=load, title="title"):
    path = tmp_path / "gallery.html"
    totals = RunStats.of(one for _, one in images)
    gallery.write(path, title, totals, gallery.pick(images, limit), loader)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_a_page_holds_every_box_with_all_that_was_said(tmp_path):
    both = result(judged("dog", BOX), judged("cat", BOX, Outcome.REJECT, score=0.25))
    page, _ = written(tmp_path, [("a.jpg", both)])
    accepted = page.all("g", "accept")[0]
    assert json.loads(accepted["data-classes"]) == ["dog"]
    said = {one["class"]: one for one in json.loads(accepted["data-said"])}
    assert said["cat"]["score"] == 0.25 and said["cat"]["p"] == 0.03
    assert said["cat"]["question"] == "Is this a cat?" and said["dog"]["raw"] == "Yes"
    assert len(page.all("g", "box")) == 2 and len(page.all("span", "tag")) == 1


def test_an_answer_that_never_came_has_no_probability(tmp_path):
    page, _ = written(tmp_path, [("a.jpg", result(judged("dog", BOX, Outcome.UNSURE, error="x")))])
    assert json.loads(page.all("g", "unsure")[0]["data-said"])[0]["p"] is None


def test_hostile_names_stay_text(tmp_path):
    harmless, _ = written(tmp_path, [("a.jpg", result(judged("dog", WIDE)))])
    page, text = written(tmp_path, [(HOSTILE, result(judged(HOSTILE, WIDE)))], title=HOSTILE)
    assert [tag for tag, _ in page.seen] == [tag for tag, _ in harmless.seen]
    assert HOSTILE in page.texts()
    assert not any(key.startswith("on") for _, attributes in page.seen for key in attributes)
    assert text.count("<script>") == 1


@pytest.mark.parametrize("name", ["\udcff.jpg", "new\nline", "\x00", "ночь 😀"])
def test_any_name_can_be_shown(tmp_path, name):
    page, _ = written(tmp_path, [(name, result())])
    assert len(page.all("figure", "card")) == 1


def test_nothing_is_fetched_from_anywhere(tmp_path):
    page, text = written(tmp_path, [("a.jpg", result(judged("dog", BOX)))])
    sources = [a.get("src") or a.get("href") for _, a in page.seen if "src" in a or "href" in a]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http://" not in text and "https://" not in text and "@import" not in text
    policy = next(a["content"] for a in page.all("meta") if "src" in (a.get("content") or ""))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_doubtful_images_come_first_and_the_rest_is_cut(tmp_path):
    images = [
        ("empty.jpg", result()),
        ("sure.jpg", result(judged("dog", BOX))),
        ("doubtful.jpg", result(judged("dog", BOX, Outcome.UNSURE))),
    ]
    assert [s.name for s in gallery.pick(images, 2)] == ["doubtful.jpg", "sure.jpg"]
    page, text = written(tmp_path, images, limit=1)
    assert len(page.all("figure", "card")) == 1 and "1 of 3 images are shown" in text


def test_an_image_that_has_gone_is_said_to_be(tmp_path):
    def gone(name):
        raise BadImage("it is no longer there")

    page, _ = written(tmp_path, [("a.jpg", result(judged("dog", BOX)))], loader=gone)
    assert "it is no longer there" in page.texts() and page.all("img") == []


def test_a_page_without_images_is_a_page(tmp_path):
    page, _ = written(tmp_path, [])
    assert page.all("figure") == []
