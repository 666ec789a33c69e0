"""The gallery: sound HTML whatever the names, every box as data, the doubtful images first."""

import numpy as np
import pytest
from html_page import Page
from labelled import judged, picked, result

from secondlook.core.drawing import CLASS_COLOURS
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook_client.errors import BadImage
from secondlook_client.values import Outcome

BOX = (10.0, 20.0, 60.0, 90.0)
WIDE = (0.0, 20.0, 320.0, 90.0)
HOSTILE = "\"'><script>alert(1)</script><!--<img src=x onerror=alert(2)>&amp;{{7*7}}$title"


def load(name):
    return np.full((240, 320, 3), 90, dtype=np.uint8)


def written(tmp_path, images, limit=200, loader=load, title="title", **more):
    path = tmp_path / "gallery.html"
    totals = RunStats.of(one for _, one in images)
    gallery.write(path, title, totals, picked(images, limit), loader, **more)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_every_box_is_in_the_page_once_with_all_that_was_said(tmp_path):
    both = result(judged("dog", BOX), judged("cat", BOX, Outcome.REJECT, score=0.25))
    page, _ = written(tmp_path, [("a.jpg", both), ("b.jpg", result(judged("cat", WIDE)))])
    boxes = page.boxes()
    assert [(box["image"], box["class"], box["kind"]) for box in boxes] == [
        ("a.jpg", "dog", "accepted"),
        ("a.jpg", "cat", "rejected"),
        ("b.jpg", "cat", "accepted"),
    ]
    cat = boxes[1]
    assert (cat["score"], cat["p"], cat["answer"]) == (0.25, 0.03, "Yes")
    assert cat["asked"] == "Is this a cat? (crop)" and cat["reason"] == "P(yes) 0.03"
    assert [cat[edge] for edge in ("x1", "y1", "x2", "y2")] == list(BOX)


def test_rejected_boxes_are_off_at_first_and_scores_where_they_are_asked_for(tmp_path):
    page, _ = written(tmp_path, [("a.jpg", result(judged("dog", BOX)))], scores=True)
    data = page.data()
    assert {kind["word"]: kind["shown"] for kind in data["kinds"]} == {
        "accepted": True,
        "unsure": True,
        "rejected": False,
    }
    assert data["scores"] is True
    assert len({kind["line"] for kind in data["kinds"]}) == 3


def test_classes_have_the_colours_of_their_ontology(tmp_path):
    names = [f"class {number}" for number in range(25)]
    page, text = written(tmp_path, [("a.jpg", result(judged("class 7", BOX)))], classes=names)
    assert page.data()["classes"] == names
    assert f"--c7: rgb{CLASS_COLOURS[7]};" in text
    assert [int(a["data-class"]) for a in page.all("button", "class")] == list(range(25))


def test_counts_by_class_and_of_empty_and_failed_images(tmp_path):
    images = [
        ("a.jpg", result(judged("dog", BOX), judged("dog", WIDE, Outcome.UNSURE))),
        ("b.jpg", result(judged("cat", BOX, Outcome.REJECT))),
        ("c.jpg", result()),
    ]
    page, _ = written(tmp_path, images, classes=["cat", "dog"], failed=4)
    (cat, dog) = [words.split() for words in _buttons(page)]
    assert cat == ["cat", "0", "?", "0", "✕", "1"] and dog == ["dog", "1", "?", "1", "✕", "0"]
    notices = " ".join(page.texts("p"))
    assert "all rejected: 1" in notices and "nothing proposed: 1" in notices
    assert "Images that failed: 4" in notices
    assert page.data()["images"][2]["f"] != page.data()["images"][1]["f"]


def _buttons(page):
    """The text of the button of each class."""
    words, found = page.words, []
    for place, (tag, text) in enumerate(words):
        if tag == "span" and any(t == "b" for t, _ in words[place + 1 : place + 2]):
            found.append(
                " ".join([text, *(w for t, w in words[place + 1 : place + 4] if t == "b")])
            )
    return found


def test_label_ids_begin_with_the_cursor_of_the_result(tmp_path):
    images = [("a.jpg", result()), ("b.jpg", result(judged("dog", BOX), judged("cat", BOX)))]
    best = picked(images, 5, cursors=[81, 82])
    gallery.write(tmp_path / "g.html", "t", RunStats.of(r for _, r in images), best, load)
    assert [box["id"] for box in Page((tmp_path / "g.html").read_text()).boxes()] == [
        "82.0",
        "82.1",
    ]


def test_an_answer_that_never_came_has_no_probability(tmp_path):
    page, _ = written(tmp_path, [("a.jpg", result(judged("dog", BOX, Outcome.UNSURE, error="x")))])
    (box,) = page.boxes()
    assert box["p"] is None and box["answer"] == "x"


def test_hostile_names_stay_text(tmp_path):
    harmless, _ = written(tmp_path, [("a.jpg", result(judged("dog", WIDE)))])
    page, text = written(tmp_path, [(HOSTILE, result(judged(HOSTILE, WIDE)))], title=HOSTILE)
    assert [tag for tag, _ in page.seen] == [tag for tag, _ in harmless.seen]
    assert HOSTILE in page.texts("h1") and page.boxes()[0]["class"] == HOSTILE
    assert page.boxes()[0]["asked"] == f"Is this a {HOSTILE}? (crop)"
    assert not any(key.startswith("on") for _, attributes in page.seen for key in attributes)
    assert text.count("<script") == text.count("</script>") == 2
    assert "<!--" not in text


@pytest.mark.parametrize("name", ["\udcff.jpg", "new\nline", "\x00", "ночь 😀", "\u2028"])
def test_any_name_can_be_shown(tmp_path, name):
    page, _ = written(tmp_path, [(name, result(judged(name, BOX)))])
    assert len(page.all("figure", "card")) == len(page.boxes()) == 1


@pytest.mark.parametrize("originals", [(), ("coco/images/train/",)])
def test_nothing_is_fetched_from_the_network(tmp_path, originals):
    page, text = written(tmp_path, [("a.jpg", result(judged("dog", BOX)))], originals=originals)
    sources = [a.get("src") or a.get("href") for _, a in page.seen if "src" in a or "href" in a]
    assert sources and all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "https://" not in text and "@import" not in text
    assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
    policy = next(a["content"] for a in page.all("meta") if "src" in (a.get("content") or ""))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert ("file:" in policy) == bool(originals)


def test_doubtful_images_come_first_and_the_rest_is_cut(tmp_path):
    images = [
        ("empty.jpg", result()),
        ("sure.jpg", result(judged("dog", BOX))),
        ("doubtful.jpg", result(judged("dog", BOX, Outcome.UNSURE))),
    ]
    assert [s.name for s in picked(images, 2)] == ["doubtful.jpg", "sure.jpg"]
    page, text = written(tmp_path, images, limit=1)
    assert len(page.all("figure", "card")) == 1 and "1 of 3 images are shown" in text


def test_another_order_is_kept(tmp_path):
    images = [("b.jpg", result(judged("dog", BOX, Outcome.UNSURE))), ("a.jpg", result())]
    best = picked(images, 5, lambda one: (len(one.judgements),))
    gallery.write(
        tmp_path / "g.html", "t", RunStats.of(r for _, r in images), best, load, order="x"
    )
    page = Page((tmp_path / "g.html").read_text())
    shown = page.data()["images"]
    assert [image["n"] for image in shown] == ["a.jpg", "b.jpg"]
    assert [image["k"][0] for image in shown] == [0, 1] and "x" in page.texts("option")


def test_an_image_that_has_gone_is_said_to_be(tmp_path):
    def gone(name):
        raise BadImage("it is no longer there")

    page, _ = written(tmp_path, [("a.jpg", result(judged("dog", BOX)))], loader=gone)
    assert "it is no longer there" in page.texts() and page.all("img") == []


def test_a_page_without_images_is_a_page(tmp_path):
    page, _ = written(tmp_path, [])
    assert page.all("figure", "card") == [] and page.boxes() == []
