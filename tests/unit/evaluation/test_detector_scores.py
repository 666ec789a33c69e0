"""Scores of a student: COCO's figures against pycocotools, and the thresholds."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_samples import BOX, CLASSES, detections, judged, sample, world

from secondlook.evaluation.average_precision import (
    average_precision,
    average_precision_of_images,
)
from secondlook.evaluation.detector_scores import best_threshold, score
from secondlook.evaluation.matching import (
    Counts,
    ScoredBox,
    TrueBox,
    evaluate,
    judge_classes,
    match_detections,
)
from secondlook_client.errors import MissingExtra


def by_pycocotools(samples, found, classes):
    """(10, 101, classes) precision, from the reference implementation."""
    COCO = pytest.importorskip("pycocotools.coco").COCO  # noqa: N806
    COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval  # noqa: N806
    truth, guesses = COCO(), COCO()
    real, said = [], []
    for image, (one, seen) in enumerate(zip(samples, found, strict=True), start=1):
        rows = [(b, k, 0) for b, k in zip(one.boxes, one.classes, strict=True)]
        rows += [
            (b, k, 1)
            for b, of in zip(one.ignore, one.ignore_classes, strict=True)
            for k in range(classes)
            if of in (k, -1)
        ]
        for box, kind, crowd in rows:
            real.append({**entry(len(real) + 1, image, kind, box), "iscrowd": crowd})
        for box, kind, value in zip(seen.boxes, seen.classes, seen.scores, strict=True):
            said.append({**entry(len(said) + 1, image, kind, box), "score": float(value)})
    shared = {
        "images": [{"id": n + 1} for n in range(len(samples))],
        "categories": [{"id": n + 1, "name": str(n)} for n in range(classes)],
    }
    truth.dataset = {**shared, "annotations": real}
    guesses.dataset = {**shared, "annotations": [{**s, "iscrowd": 0} for s in said]}
    truth.createIndex()
    guesses.createIndex()
    scored = COCOeval(truth, guesses, "bbox")
    scored.evaluate()
    scored.accumulate()
    return scored.eval["precision"][..., 0, 2]


def entry(number, image, kind, box):
    x1, y1, x2, y2 = map(float, box)
    return {
        "id": number,
        "image_id": image,
        "category_id": int(kind) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }


def mean(table):
    known = table[table > -1]
    return float(known.mean()) if known.size else None


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 6),
    classes=st.integers(1, 4),
    ties=st.booleans(),
)
def test_figures_are_those_of_pycocotools(seed, images, classes, ties):
    samples, found = world(seed, images, classes, ties)
    names = [f"class {n}" for n in range(classes)]
    ours = average_precision(samples, found, names)
    reference = by_pycocotools(samples, found, classes)
    assert ours.map == pytest.approx(mean(reference), abs=1e-6)
    assert ours.map50 == pytest.approx(mean(reference[0]), abs=1e-6)
    assert ours.map75 == pytest.approx(mean(reference[5]), abs=1e-6)
    for place, name in enumerate(names):
        of_class, at_half = reference[:, :, place], reference[0, :, place]
        assert ours.map_per_class[name] == pytest.approx(mean(of_class), abs=1e-6)
        assert ours.map50_per_class[name] == pytest.approx(mean(at_half), abs=1e-6)
        if ours.curves[name] is not None:
            assert ours.curves[name] == pytest.approx(at_half, abs=1e-6)


def test_ignore_regions_change_the_figures():
    """The comparison above would hold if both sides left crowds out; here they must matter."""
    samples, found = world(3, 20)
    bare = [sample(s.boxes, s.classes) for s in samples]
    assert score(samples, found, CLASSES).map50 > score(bare, found, CLASSES).map50 + 0.001


def by_name(samples, found, threshold=0.0):
    """The same as `secondlook evaluate` has it."""
    images = []
    for one, seen in zip(samples, found, strict=True):
        truth = [
            TrueBox(CLASSES[k], tuple(b.tolist()))
            for b, k in zip(one.boxes, one.classes, strict=True)
        ]
        truth += [
            TrueBox(name, tuple(b.tolist()), ignore=True)
            for b, of in zip(one.ignore, one.ignore_classes, strict=True)
            for place, name in enumerate(CLASSES)
            if of in (place, -1)
        ]
        kept = [
            ScoredBox(CLASSES[k], tuple(b.tolist()), float(s))
            for b, k, s in zip(seen.boxes, seen.classes, seen.scores, strict=True)
            if s >= threshold
        ]
        images.append((kept, truth))
    return images


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 1))
def test_counts_are_those_of_evaluate(seed, threshold):
    """The same matching as `secondlook evaluate`, at any threshold."""
    samples, found = world(seed, 4)
    quality = evaluate(by_name(samples, found, threshold), CLASSES)
    judged = judge_classes(samples, found, len(CLASSES))
    for name, one in zip(CLASSES, judged, strict=True):
        assert one.at(threshold) == quality.by_class[name]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_files_and_students_have_the_same_average_precision(seed):
    samples, found = world(seed, 4)
    ours = average_precision(samples, found, CLASSES)
    of_files = average_precision_of_images(by_name(samples, found), CLASSES)
    assert (of_files.map, of_files.map50, of_files.map75) == (ours.map, ours.map50, ours.map75)
    assert of_files.map_per_class == ours.map_per_class


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_average_precision_follows_from_the_matching(seed):
    """AP at 0.5 from our own right and wrong: thresholds and figures speak of the same thing."""
    samples, found = world(seed, 5)
    coco = average_precision(samples, found, CLASSES)
    for name, one in zip(CLASSES, judge_classes(samples, found, len(CLASSES)), strict=True):
        if not one.boxes:
            assert coco.map50_per_class[name] is None
            continue
        right = np.cumsum(one.right)
        precision = right / np.arange(1, len(right) + 1)
        recall = right / one.boxes
        best = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
        assert np.mean(best) == pytest.approx(coco.map50_per_class[name], abs=1e-6)


def test_best_threshold_is_the_best_of_all():
    samples, found = world(11, 40)
    scores = score(samples, found, CLASSES)
    for name, one in zip(CLASSES, judge_classes(samples, found, len(CLASSES)), strict=True):
        at_best = scores.at_thresholds[name]
        assert at_best == one.at(scores.best_thresholds[name])
        assert at_best.f1 == max(one.at(value).f1 for value in one.scores)


def test_threshold_lies_between_the_kept_and_the_left_out():
    one = judged([0.9, 0.8, 0.4], [True, True, False], boxes=2)
    assert best_threshold(one) == pytest.approx(0.6)


def test_threshold_of_equal_scores_keeps_all_of_them():
    one = judged([0.5, 0.5, 0.2], [True, False, False], boxes=1)
    assert 0.2 < best_threshold(one) <= 0.5
    assert one.at(best_threshold(one)) == Counts(1, 1, 0, 0)


def test_threshold_does_not_count_on_half_of_a_tie():
    one = judged([0.9, 0.5, 0.5, 0.5, 0.5], [True, True, False, False, False], boxes=2)
    assert best_threshold(one) == pytest.approx(0.7)


@pytest.mark.parametrize("steps", [0, 1])  # rounding half to even goes up once, and down once
def test_threshold_between_neighbouring_floats_still_tells_them_apart(steps):
    low = np.float32(0.7)
    for _ in range(steps):
        low = np.nextafter(low, np.float32(1))
    high = np.nextafter(low, np.float32(1))
    threshold = best_threshold(judged([high, low], [True, False], boxes=1))
    assert (np.array([high, low], np.float32) >= threshold).tolist() == [True, False]


def test_class_without_a_right_detection_takes_the_threshold_of_all():
    boxes = [BOX, (50, 50, 90, 90)]
    samples = [sample(boxes, [0, 1])]
    found = [detections([BOX, BOX], [0.8, 0.3], [0, 1])]
    scores = score(samples, found, CLASSES)
    assert scores.best_thresholds["dog"] == pytest.approx(0.55)
    assert scores.best_thresholds["tree"] == pytest.approx(0.55)
    assert scores.at_thresholds["dog"] == Counts(0, 0, 1, 0)
    assert scores.map50_per_class["tree"] is None and scores.curves["tree"] is None


def test_ignored_detections_are_neither_right_nor_wrong():
    region = (40, 40, 90, 90)
    one = sample([BOX], [0], [region])
    seen = detections([BOX, (50, 50, 80, 80), (45, 45, 60, 60)], [0.9, 0.8, 0.7], [0, 0, 1])
    matching = match_detections(one, seen)
    assert matching.truth.tolist() == [0, -1, -1]
    assert matching.ignored.tolist() == [False, True, True]
    scores = score([one], [seen], CLASSES)
    assert scores.map50 == 1 and scores.at_thresholds["person"] == Counts(1, 0, 0, 1)


def test_a_region_hides_nothing_of_other_classes():
    region = (40, 40, 90, 90)
    one = sample([BOX], [0], [region, region], ignore_classes=[1, 2])
    seen = detections([(50, 50, 80, 80)] * 3, [0.9, 0.8, 0.7], [0, 1, 2])
    assert match_detections(one, seen).ignored.tolist() == [False, True, True]
    scores = score([one], [seen], CLASSES)
    assert scores.at_thresholds["person"].wrong == 1 and scores.at_thresholds["dog"].ignored == 1


def test_duplicates_are_wrong():
    seen = detections([BOX, BOX], [0.9, 0.8], [0, 0])
    (one,) = judge_classes([sample([BOX], [0])], [seen], 1)
    assert one.right.tolist() == [True, False]


@pytest.mark.parametrize("boxes", [[], [BOX]])
def test_nothing_found(boxes):
    scores = score([sample(boxes, [0] * len(boxes))], [detections([], [], [])], CLASSES)
    assert (scores.map, scores.map50) == (0, 0)
    assert scores.map50_per_class["person"] == (0 if boxes else None)
    assert scores.calibration["person"] == (1, 0) and scores.best_thresholds["person"] == 0.5
    assert scores.reliability.error is None


def test_no_images_and_no_truth():
    assert score([], [], CLASSES).map == 0
    scores = score([sample([], [])], [detections([BOX], [0.9], [0])], CLASSES)
    assert scores.map50_per_class == dict.fromkeys(CLASSES, None) and scores.detections == 1
    assert scores.at_thresholds["person"] == Counts(0, 1, 0, 0)


def test_many_classes():
    names = [f"class {n}" for n in range(300)]
    samples = [sample([BOX], [n]) for n in range(0, 300, 10)]
    found = [detections([BOX], [0.9], s.classes) for s in samples]
    scores = score(samples, found, names)
    assert scores.map50 == 1 and sum(v is None for v in scores.map50_per_class.values()) == 270


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 images, got 0"):
        score([sample([], [])], [], CLASSES)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtra, match=r"secondlook\[evaluate\]"):
        score([sample([], [])], [detections([], [], [])], CLASSES)


def test_no_figure_is_not_a_number():
    samples, found = world(2, 3)
    scores = score(samples, found, CLASSES)
    flat = [*scores.best_thresholds.values(), *np.ravel([*scores.calibration.values()])]
    assert all(math.isfinite(v) for v in flat) and Path(samples[0].path)
