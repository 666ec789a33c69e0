import numpy as np
import pytest
from fakes import ScriptedProposer, make_image
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core import boxes
from secondlook.core.types import Proposals
from secondlook.labeling.proposer import Proposer, by_class, candidates
from secondlook_client.ontology import ClassSpec, Ontology

IMAGE = make_image("street", 100, 80)
ONTOLOGY = Ontology(
    (
        ClassSpec("glasses on", ("person", "rider"), group="eyes", threshold=0.3),
        ClassSpec("glasses off", ("person",), group="eyes", threshold=0.5),
        ClassSpec("dog", threshold=0.4),
    )
)


def proposals(rows: list[tuple[list[float], list[float]]]) -> Proposals:
    return Proposals(
        np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
        np.array([scores for _, scores in rows], np.float32).reshape(-1, 3),
    )


@st.composite
def many(draw: st.DrawFn) -> Proposals:
    """As a model may give them: partly outside the image, without extent, or not a number."""
    side = st.one_of(st.floats(-50, 150, width=32), st.just(float("nan")))
    score = st.one_of(st.sampled_from([0.0, 0.35, 0.45, 0.9]), st.just(float("nan")))
    row = st.tuples(st.lists(side, min_size=4, max_size=4), st.lists(score, min_size=3, max_size=3))
    return proposals(draw(st.lists(row, max_size=12)))


def test_the_fake_is_a_proposer() -> None:
    assert isinstance(ScriptedProposer(), Proposer)


def test_a_class_scores_as_its_best_phrase() -> None:
    assert ONTOLOGY.phrases == ("person", "rider", "dog")
    folded = by_class(proposals([([0, 0, 9, 9], [0.2, 0.6, 0.1])]), IMAGE, ONTOLOGY, 10)
    np.testing.assert_allclose(folded.scores, [[0.6, 0.2, 0.1]])


def test_boxes_are_clipped_and_unsound_ones_left_out() -> None:
    found = by_class(
        proposals(
            [
                ([-10, 10, 50, 200], [0.5, 0, 0]),
                ([150, 10, 160, 20], [0.9, 0, 0]),
                ([5, 5, 5, 9], [0.9, 0, 0]),
                ([1, 1, float("nan"), 9], [0.9, 0, 0]),
                ([1, 1, 9, 9], [float("nan"), 0, 0]),
            ]
        ),
        IMAGE,
        ONTOLOGY,
        10,
    )
    assert found.boxes.tolist() == [[0, 10, 50, 80]]


@given(many(), st.integers(0, 5))
def test_the_best_boxes_are_kept_best_first(raw: Proposals, most: int) -> None:
    kept = by_class(raw, IMAGE, ONTOLOGY, most)
    everything = by_class(raw, IMAGE, ONTOLOGY, 1000)
    assert len(kept) == min(most, len(everything))
    best = everything.scores.max(axis=1, initial=0)
    assert (np.diff(best) <= 0).all()
    np.testing.assert_array_equal(kept.scores, everything.scores[: len(kept)])
    assert (boxes.area(kept.boxes) > 0).all()
    assert np.isfinite(kept.boxes).all()
    assert kept.boxes.dtype == kept.scores.dtype == np.float32


@given(many(), st.floats(0, 1))
def test_candidates_are_worth_judging(raw: Proposals, nms_iou: float) -> None:
    found = by_class(raw, IMAGE, ONTOLOGY, 100)
    thresholds = np.array([spec.threshold for spec in ONTOLOGY.classes], np.float32)
    picked = candidates(found, ONTOLOGY, nms_iou)
    for candidate in picked:
        assert candidate.classes in ONTOLOGY.groups.values()
        columns = list(candidate.classes)
        assert (found.scores[candidate.row, columns] >= thresholds[columns]).any()
    for members in ONTOLOGY.groups.values():
        rows = [c.row for c in picked if c.classes == members]
        overlap = boxes.iou(found.boxes[rows], found.boxes[rows])
        np.fill_diagonal(overlap, 0)
        assert (overlap <= nms_iou).all()
        columns = list(members)
        above = (found.scores[:, columns] >= thresholds[columns]).any(axis=1)
        assert bool(rows) == bool(above.any())


def test_one_object_is_judged_once_a_group_and_apart_from_other_classes() -> None:
    found = proposals(
        [
            ([0, 0, 50, 50], [0.9, 0.6, 0.0]),
            ([1, 1, 51, 51], [0.4, 0.8, 0.7]),
        ]
    )
    picked = [(c.row, c.classes) for c in candidates(found, ONTOLOGY, 0.6)]
    assert picked == [(0, (0, 1)), (1, (2,))]


def test_one_side_above_its_threshold_brings_all_sides_up() -> None:
    found = proposals([([0, 0, 50, 50], [0.35, 0.35, 0.0])])
    assert [(c.row, c.classes) for c in candidates(found, ONTOLOGY, 0.6)] == [(0, (0, 1))]


def test_a_score_at_the_threshold_is_enough() -> None:
    found = proposals([([0, 0, 50, 50], [0.0, 0.0, 0.4])])
    assert [c.row for c in candidates(found, ONTOLOGY, 0.6)] == [0]


def test_no_boxes() -> None:
    nothing = by_class(proposals([]), IMAGE, ONTOLOGY, 10)
    assert len(nothing) == 0
    assert candidates(nothing, ONTOLOGY, 0.6) == []


def test_a_proposer_that_skips_a_phrase_is_told_so() -> None:
    short = Proposals(np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="2 scores a box for 3 phrases"):
        by_class(short, IMAGE, ONTOLOGY, 10)


@pytest.mark.parametrize("shapes", [((3, 5), (3, 1)), ((3, 4), (2, 1)), ((4,), (1, 1))])
def test_proposals_of_the_wrong_shape_are_refused(shapes: tuple) -> None:
    with pytest.raises(ValueError, match="expected"):
        Proposals(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32))
