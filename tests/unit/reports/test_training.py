"""The report of a student: the figures of its scores, and sound HTML whatever the names."""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
from html_page import Page
from PIL import Image
from scored_samples import BOX, detections, sample

from secondlook.evaluation.detector_scores import score
from secondlook.reports.mistakes import mistakes, worst
from secondlook.reports.plots import thinned
from secondlook.reports.training import MAX_IMAGES, PartOfData, ReportInput, plain, write_report
from secondlook_client.errors import BadImage, InvalidInput

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{7*7}}$title\udcff"
FAR = (50, 50, 80, 80)


def load(sample):
    return np.full((sample.height, sample.width, 3), 90, dtype=np.uint8)


def told(classes=("person", "dog"), samples=None, found=None, **more):
    if samples is None:
        samples = [sample([BOX, FAR], [0, 1], [(0, 60, 40, 100)], name="val/1.jpg")]
        near = (BOX[0] + 4, *BOX[1:])  # right at IoU 0.5 and not at 0.95
        found = [detections([near, (60, 5, 95, 30)], [0.9, 0.95], [0, 1])]
    values = {
        "name": "street",
        "architecture": "deimv2",
        "size": "pico",
        "start": "nothing",
        "input_size": (224, 160),
        "classes": tuple(classes),
        "data": "street-1",
        "snapshot": "9f" * 32,
        "split": "val",
        "scores": score(samples, found, classes),
        "samples": samples,
        "found": found,
        "trained_on": PartOfData(240, 1512, 64, 12),
        "images_per_second": 143.7,
    }
    return ReportInput(**{**values, **more})


def written(tmp_path, report, loader=load):
    write_report(tmp_path, report, loader)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(text), text, json.loads((tmp_path / "report.json").read_text())


def test_json_has_the_figures_of_the_scores(tmp_path):
    report = told(parity={"fp32 mAP": 0.5}, seconds={"training": 60.0}, settings={"seed": 3})
    _, _, kept = written(tmp_path, report)
    scores = report.scores
    assert (kept["map"], kept["map50"]) == (scores.map, scores.map50) and scores.map < 0.5
    assert kept["map50_per_class"] == scores.map50_per_class == {"person": 1.0, "dog": 0.0}
    assert kept["thresholds"] == scores.best_thresholds
    assert kept["calibration"]["dog"] == list(scores.calibration["dog"])
    assert kept["at_thresholds"]["person"]["right"] == 1
    assert kept["precision_at_recall"]["person"] == [1.0] * 101
    assert kept["images_per_second"] == 143.7 and kept["snapshot"] == "9f" * 32
    assert kept["counts"]["held_out"] == {"images": 1, "boxes": 2, "ignored": 1, "negatives": 0}
    assert kept["counts"]["train"]["negatives"] == 12
    assert (kept["parity"], kept["seconds"]) == ({"fp32 mAP": 0.5}, {"training": 60.0})
    assert kept["settings"] == {"seed": 3}
    (worst,) = kept["worst_images"]
    assert (worst["name"], worst["sha256"], worst["mistakes"]) == ("val/1.jpg", "", 2)
    assert [(one["kind"], one["class"]) for one in worst["boxes"]] == [
        ("missed", "dog"),
        ("false", "dog"),
    ]
    assert worst["boxes"][1]["box"] == [60.0, 5.0, 95.0, 30.0]


def test_page_tells_the_same_figures(tmp_path):
    report = told()
    page, text, _ = written(tmp_path, report)
    headline = dict(zip(("mAP50", "mAP"), page.texts("b"), strict=False))
    assert headline == {"mAP50": "0.500", "mAP": f"{report.scores.map:.3f}"}
    row = re.search(r"</i> dog</th>(.*?)</tr>", text)[1]
    counts = report.scores.at_thresholds["dog"]
    assert f"<td>{counts.wrong}</td><td>{counts.missed}</td>" in row
    assert "9f" * 32 in page.texts("dd")
    assert any(
        "missed: 1, detections that are not in the labels: 1." in words for words in page.texts("p")
    )


def test_worst_image_shows_every_kind_of_box(tmp_path):
    page, _, _ = written(tmp_path, told())
    assert [(box["kind"], box["class"], box["score"]) for box in page.boxes()] == [
        ("missed", "dog", None),
        ("not in the labels", "dog", 0.95),
        ("found", "person", 0.9),
        ("region to ignore", "", None),
    ]
    assert len({kind["line"] for kind in page.data()["kinds"][:3]}) == 3


def test_hostile_names_are_escaped(tmp_path):
    samples = [sample([BOX], [0], name=HOSTILE)]
    report = told(
        (HOSTILE, "dog"),
        samples,
        [detections([FAR], [0.9], [0])],
        name=HOSTILE,
        data=HOSTILE,
        split=HOSTILE,
        start=HOSTILE,
        machine=HOSTILE,
        warnings=[HOSTILE],
        settings={HOSTILE: HOSTILE},
        parity={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
        architecture=HOSTILE,
        size=HOSTILE,
    )
    page, text, kept = written(tmp_path, report)
    assert text.count("<script") == text.count("</script>") == 2
    assert {tag for tag, _ in page.seen}.isdisjoint({"iframe", "link", "a"})
    assert all(a["src"].startswith("data:image/webp;base64,") for a in page.all("img"))
    assert not any(name.startswith("on") for _, a in page.seen for name in a)
    shown = HOSTILE.replace("\udcff", "?")
    for tag in ("h1", "th", "dt", "dd", "li"):
        assert any(shown in words for words in page.texts(tag)), tag
    assert kept["name"] == HOSTILE


def test_image_of_one_row_does_not_fill_the_page(tmp_path):
    samples = [sample([BOX], [0], size=(1, 10_000))]
    page, _, _ = written(tmp_path, told(samples=samples, found=[detections([], [], [])]))
    (frame,) = page.all("span", "frame")
    assert float(frame["style"].removeprefix("aspect-ratio:")) >= 0.4


def test_nothing_comes_from_elsewhere(tmp_path):
    page, text, _ = written(tmp_path, told())
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert "file:" not in policy and "https://" not in text and "@import" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_unreadable_image_is_told_without_its_path(tmp_path):
    def refuse(sample):
        raise BadImage("/home/someone/secret.jpg is gone")

    page, text, _ = written(tmp_path, told(), refuse)
    assert "secret" not in text and page.all("img") == []
    assert any("could not be read" in words for words in page.texts("span"))


def test_images_are_read_from_the_disk_small(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (1500, 900)).save(path)
    samples = [sample([BOX], [0], path=path, size=(1500, 900))]
    report = told(("person",), samples, [detections([], [], [])])
    write_report(tmp_path, report)
    (image,) = Page((tmp_path / "report.html").read_text()).all("img")
    content = base64.b64decode(image["src"].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(content)).size == (1280, 768)


def test_worst_images_come_first_and_are_few(tmp_path):
    boxes = [BOX, FAR, (5, 60, 30, 90)]
    samples = [sample(boxes[: n % 4], [0] * (n % 4), name=f"{n}.jpg") for n in range(60)]
    found = [detections([], [], [])] * 60
    chosen, wrong = worst(samples, found, [0.5], MAX_IMAGES)
    assert wrong == 45 and len(chosen) == MAX_IMAGES
    assert [one.count for one in chosen] == [3] * 15 + [2] * 9
    assert [one.place for one in chosen[:3]] == [3, 7, 11]
    page, _, _ = written(tmp_path, told(("person",), samples, found))
    assert len(page.all("figure", "card")) == MAX_IMAGES
    assert any("45 of 60 images have a mistake" in words for words in page.texts("p"))


def test_mistakes_are_those_at_the_thresholds():
    one = sample([BOX, FAR], [0, 0], [(0, 60, 40, 100)])
    seen = detections([BOX, FAR, (60, 5, 95, 30), (5, 65, 30, 90)], [0.9, 0.4, 0.8, 0.7], [0] * 4)
    made = mistakes(0, one, seen, [0.5])
    assert (made.missed.tolist(), made.false.tolist(), made.right.tolist()) == ([1], [1], [0])
    assert mistakes(0, one, seen, [0.3]).missed.tolist() == []
    assert mistakes(0, one, seen, [0.85]).false.tolist() == []


@pytest.mark.parametrize("classes", [("person",), [f"class {n}" for n in range(500)]])
def test_no_truth_nothing_found_and_many_classes(tmp_path, classes):
    report = told(classes, [sample([], [])], [detections([], [], [])], images_per_second=None)
    page, _, kept = written(tmp_path, report)
    assert set(kept["map50_per_class"].values()) == {None} and kept["images_per_second"] is None
    assert any("Nothing was found" in words for words in page.texts("p"))
    assert len(page.all("tr")) <= 401


def test_many_curves_are_bounded(tmp_path):
    classes = [f"class {n}" for n in range(100)]
    samples = [sample([BOX], [n]) for n in range(100)]
    report = told(classes, samples, [detections([BOX], [0.9], s.classes) for s in samples])
    page, _, kept = written(tmp_path, report)
    assert len(page.all("polyline", "curve")) == 60
    assert len(kept["precision_at_recall"]) == 100


def test_training_is_drawn_where_it_was_measured(tmp_path):
    moments = [{"step": n, "loss": 10 - n / 100, "map50": None} for n in range(500)]
    moments += [{"step": n, "loss": 4.0, "map50": 0.5} for n in range(500, 600)]
    moments += [{"step": 600, "loss": math.nan, "map50": 0.75}]
    moments += [{"step": 650, "map50": 0.75}]  # measured again, with the same result
    moments += [{"step": 3, "loss": 7.0, "map50": 0.9, "phase": "score"}]
    page, _, kept = written(tmp_path, told(training=moments))
    assert kept["training"]["map50"] == [[500, 0.5], [600, 0.75], [650, 0.75]]
    assert len(kept["training"]["loss"]) == 600
    assert len(page.all("circle", "best")) == 1 and len(page.all("polyline", "loss")) == 1


def test_thinned_curve_keeps_its_mean():
    points = [(float(n), float(n % 7)) for n in range(5000)]
    few = thinned(points, 100)
    assert len(few) == 100 and np.mean(few, axis=0) == pytest.approx(np.mean(points, axis=0))


def test_figures_that_are_not_finite_are_null():
    kept = plain(told(parity={"a": math.nan, "b": [math.inf, 1.0]}, settings={"c": (1, None)}))
    assert kept["parity"] == {"a": None, "b": [None, 1.0]} and kept["settings"] == {"c": [1, None]}


def test_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(tmp_path / "not there", told(), load)
