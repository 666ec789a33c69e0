"""Objects through frames: their numbers, where they are asked about, and what follows for them."""

import sys

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier, make_image
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.labeling.pipeline import Task
from secondlook.labeling.proposer import Candidate
from secondlook.labeling.rejoining import HIDDEN_S
from secondlook.labeling.tracks import (
    LOST_S,
    KeyframeChooser,
    SequenceTracker,
    Sighting,
    UnaskedPipeline,
    is_settled,
    leading_boxes,
    least_score,
    pooled,
    quality,
    tracked_rows,
)
from secondlook_client.errors import MissingExtra
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Outcome

NO_LOOKS = np.zeros((1, 4), np.float32)
Boxes = list[tuple[float, float, float, float]]


def box(x: float, y: float = 0.0, side: float = 20.0) -> tuple[float, float, float, float]:
    return x, y, x + side, y + side


def numbers(frames: list[Boxes], fps: float = 5.0) -> list[list[int]]:
    """Of each box, of one class and all of one colour."""
    tracker, found = SequenceTracker(fps), []
    for place, boxes in enumerate(frames):
        given = np.array(boxes, np.float32).reshape(-1, 4)
        looks = np.ones((len(boxes), 4), np.float32)
        found.append(tracker.update(place / fps, given, np.zeros(len(boxes), np.intp), looks))
    return [
        [tracker.numbers.final(number, place / fps) for number in given.tolist()]
        for place, given in enumerate(found)
    ]


def test_an_object_has_one_number_from_its_first_frame_on() -> None:
    frames = [[box(3 * n), box(100 - 3 * n, 60)] for n in range(10)]
    assert numbers(frames) == [[1, 2]] * 10


def test_the_order_of_the_boxes_does_not_matter() -> None:
    frames = [[box(3 * n), box(100 - 3 * n, 60)][:: -1 if n % 2 else 1] for n in range(6)]
    assert numbers(frames) == [[1, 2], [2, 1]] * 3


def test_an_object_that_is_hidden_is_the_same_and_much_later_another() -> None:
    there: Boxes = [box(50)]
    seen = [there] * 3
    moment, short, long = int(5 * LOST_S) - 2, int(5 * LOST_S) + 2, int(5 * HIDDEN_S) + 2
    assert numbers([*seen, *[[]] * moment, there]) == [[1]] * 3 + [[]] * moment + [[1]]
    assert numbers([*seen, *[[]] * short, *seen, *[[]] * 10])[-11] == [1]
    assert numbers([*seen, *[[]] * long, *seen, *[[]] * 10])[-11] == [2]


def test_another_class_in_the_same_place_is_another_object() -> None:
    tracker = SequenceTracker(5)
    one = np.array([box(50)], np.float32)
    look = np.ones((1, 4), np.float32)
    first = tracker.update(0.0, one, np.array([0]), look)
    second = tracker.update(0.2, one, np.array([1]), look)
    third = tracker.update(0.4, one, np.array([0]), look)
    assert [first.tolist(), second.tolist(), third.tolist()] == [[1], [2], [1]]


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 8), max_size=4, unique=True), max_size=8))
def test_in_a_frame_no_two_boxes_have_one_number(frames: list[list[int]]) -> None:
    found = numbers([[box(15.0 * place) for place in boxes] for boxes in frames])
    for boxes, tracks in zip(frames, found, strict=True):
        assert len(tracks) == len(set(tracks)) == len(boxes) and all(n > 0 for n in tracks)


def test_without_the_package_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtra, match=r"secondlook\[tracks\]"):
        SequenceTracker(5).update(0.0, np.array([box(0)], np.float32), np.array([0]), NO_LOOKS)


def test_an_object_is_looked_at_where_it_shows_best_and_again_in_another_second() -> None:
    chooser = KeyframeChooser()
    for frame, shows in enumerate((1.0, 5.0, 4.0, 2.0, 9.0, 3.0)):
        chooser.add(frame / 2, 7, (0,), Sighting(frame, 3, shows))
        chooser.add(frame / 2, 7, (1, 2), Sighting(frame, 3, shows))
    chooser.add(0.0, 8, (0,), Sighting(0, 1, 1.0))
    chooser.add(0.9, 8, (0,), Sighting(1, 1, 2.0))
    assert chooser.look(0) == {7: Sighting(4, 3, 9.0), 8: Sighting(1, 1, 2.0)}
    assert chooser.look(1) == {7: Sighting(1, 3, 5.0)}
    assert chooser.classes(7) == (0, 1, 2) and chooser.classes(8) == (0,)


def test_whole_large_and_certain_boxes_show_best() -> None:
    size = (100, 100)
    assert quality(box(10, 10), 0.9, size) > quality(box(10, 10), 0.5, size)
    assert quality(box(10, 10, 40), 0.9, size) > quality(box(10, 10), 0.9, size)
    assert quality(box(10, 10), 0.9, size) > quality(box(0, 10), 0.9, size)


def test_answers_are_pooled_and_settle_a_track_when_they_are_sure() -> None:
    sure, other, silent = Answer(0.95, "Yes"), Answer(0.25, "No"), Answer(None, "Maybe")
    assert pooled([sure, other]).p_yes == pytest.approx(0.6)
    assert pooled([silent, sure]) == sure and pooled([silent]) == silent
    assert not pooled([sure, Answer(0.9, exact=False)]).exact
    assert [is_settled(one) for one in (sure, other, silent, Answer(0.05))] == [
        True,
        False,
        False,
        True,
    ]


def test_only_what_would_be_judged_is_tracked() -> None:
    found = [Candidate(3, (0,)), Candidate(1, (1, 2)), Candidate(3, (1, 2))]
    assert tracked_rows(found).tolist() == [1, 3]


def test_of_boxes_on_one_object_the_best_stands_for_it() -> None:
    boxes = np.array([box(0), box(2), box(60), box(61), box(1)], np.float32)
    scores = np.array([0.5, 0.9, 0.3, 0.2, 0.6], np.float32)
    assert leading_boxes(boxes, scores, 0.45).tolist() == [1, 1, 2, 2, 1]
    assert leading_boxes(boxes[:0], scores[:0], 0.45).tolist() == []


def test_an_object_of_a_moment_is_worth_no_question_unless_frames_are_rare() -> None:
    assert least_score(5, 300) == 4 and least_score(25, 1000) == 24
    assert least_score(1, 300) == least_score(0.2, 300) == 0
    assert least_score(10, 8) == pytest.approx(1.6)


def test_nothing_is_asked_before_tracks_are_known() -> None:
    verifier = ScriptedVerifier()
    pipeline = UnaskedPipeline(ScriptedProposer(), verifier)
    (labelled,) = pipeline.label([Task(make_image(), Ontology((ClassSpec("dog"),)))])
    (judgement,) = labelled.judgements
    assert verifier.views == 0 and judgement.outcome is Outcome.UNSURE
    assert "not asked" in judgement.reason and labelled.evidence.verifier == "scripted@v0"
