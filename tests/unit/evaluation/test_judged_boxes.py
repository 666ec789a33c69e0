"""Judged boxes beside the truth."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.boxes import Xyxy
from secondlook.core.types import Evidence, Labelled, Proposals
from secondlook.evaluation.judged_boxes import JudgedRun, of_labelled
from secondlook.evaluation.matching import TrueBox, match_boxes
from secondlook.labeling.box_features import FEATURES
from secondlook.labeling.decisions import judge
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Verdict, View

ONTOLOGY = Ontology((ClassSpec("dog", threshold=0.1), ClassSpec("cat", threshold=0.1)))
DOG, LOOSE, AWAY = (0.0, 0.0, 40.0, 40.0), (0.0, 0.0, 40.0, 60.0), (60.0, 60.0, 90.0, 90.0)


def labelled(
    name: str, boxes: Sequence[Xyxy], scores: list[list[float]], p_yes: float | None
) -> Labelled:
    question = "Is this a dog?"
    answer = Answer(p_yes) if p_yes is not None else Answer(None, "perhaps")
    verdicts = {
        (row, View.CROP, question): Verdict(question, View.CROP, answer, "v@1", 1.0)
        for row in range(len(boxes))
    }
    proposals = Proposals(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32).reshape(-1, 2)
    )
    evidence = Evidence(proposals, verdicts, "p@1", "v@1")
    return Labelled(name, "0" * 64, 100, 100, judge(evidence, ONTOLOGY, 0.9), evidence)


@pytest.fixture
def run() -> JudgedRun:
    images = [
        labelled("a", [DOG, LOOSE, AWAY], [[0.9, 0.0], [0.5, 0.0], [0.4, 0.2]], 0.8),
        labelled("b", [], [], 0.5),
        labelled("c", [AWAY], [[0.3, 0.0]], None),
    ]
    crowd = TrueBox("dog", (55.0, 55.0, 95.0, 95.0), ignore=True)
    truth = [[TrueBox("dog", DOG), TrueBox("cat", AWAY)], [], [crowd, TrueBox("dog", DOG)]]
    return of_labelled(images, ONTOLOGY, truth)


def test_pairs_of_all_images(run: JudgedRun) -> None:
    assert run.class_names.tolist() == ["dog", "dog", "dog", "cat", "dog"]
    assert run.scenes.tolist() == [0, 0, 0, 0, 2]
    assert run.found.starts.tolist() == [0, 3, 3, 4]
    assert run.scores == pytest.approx([0.9, 0.5, 0.4, 0.2, 0.3])
    assert np.isnan(run.p_yes).tolist() == [False, False, False, True, True]
    assert run.products == pytest.approx([0.72, 0.4, 0.32, 0, 0])
    assert (run.names, run.proposer, run.verifier) == (["a", "b", "c"], "p@1", "v@1")
    assert run.features().shape == (5, len(FEATURES))
    assert run.true_boxes().tolist() == [2, 1]


def test_each_true_box_has_one_right_pair_the_most_probable(run: JudgedRun) -> None:
    assert run.right(run.products).tolist() == [True, False, False, True, False]
    assert run.right(np.array([0.1, 0.9, 0.5, 0.5, 0.5])).tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert run.known().tolist() == [True, True, True, True, False]


@given(st.integers(0, 10_000))
def test_it_is_the_matching_of_evaluation(seed: int) -> None:
    """Boxes on a coarse grid: some overlap several objects, and probabilities are often equal."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> list[Xyxy]:
        x, y, width, height = rng.integers(0, 5, (4, count)) * 5.0
        return list(zip(x, y, x + width + 10, y + height + 10, strict=True))

    images = [labelled(str(k), boxes(5), rng.random((5, 2)).tolist(), 0.8) for k in range(3)]
    truth = [
        [TrueBox(("dog", "cat", "cow")[rng.integers(3)], box) for box in boxes(4)] for _ in images
    ]
    run = of_labelled(images, ONTOLOGY, truth)
    probability = rng.integers(0, 4, len(run.boxes)) / 4
    right = run.right(probability)
    for image, known in enumerate(truth):
        rows = np.flatnonzero(run.scenes == image)
        real = [t for t in known if t.class_name in ONTOLOGY.names]
        matching = match_boxes(
            (run.found.boxes[run.boxes[rows]], run.classes[rows].astype(np.int64)),
            probability[rows],
            (
                np.array([t.box for t in real], np.float32).reshape(-1, 4),
                np.array([ONTOLOGY.names.index(t.class_name) for t in real], np.int64),
            ),
            (np.zeros((0, 4), np.float32), np.zeros(0, np.int64)),
        )
        assert right[rows].tolist() == (matching.truth >= 0).tolist()
