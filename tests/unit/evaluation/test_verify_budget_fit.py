"""Limits of certainty, found on boxes whose scores say nearly all."""

from dataclasses import replace

import numpy as np
import pytest

from secondlook.core.types import Evidence, Labelled, Proposals
from secondlook.evaluation.calibrator_fit import fit_calibrator
from secondlook.evaluation.judged_boxes import JudgedRun, of_labelled
from secondlook.evaluation.matching import TrueBox
from secondlook.evaluation.verify_budget_fit import with_budgets
from secondlook.labeling.box_features import VERIFIER_FEATURES
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import judge
from secondlook.labeling.verify_budget import find_budget
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Verdict, View

ONTOLOGY = Ontology((ClassSpec("dog", question="Dog?", threshold=0.01),))
BOXES = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], np.float32)


def scene(random: np.random.Generator) -> tuple[Labelled, list[TrueBox]]:
    """Two boxes that the score settles and two that only the answer does."""
    real = np.array([True, False, random.random() < 0.5, random.random() < 0.5])
    scores = np.array([0.97, 0.02, 0.5, 0.5]) + random.uniform(-0.01, 0.01, 4)
    verdicts = {
        (row, View.CROP, "Dog?"): Verdict("Dog?", View.CROP, Answer(p), "v@1", 1.0)
        for row, p in enumerate(np.where(real, 0.97, 0.03).tolist())
    }
    proposals = Proposals(BOXES, scores[:, None].astype(np.float32))
    evidence = Evidence(proposals, verdicts, "p@1", "v@1")
    labelled = Labelled("", "0" * 64, 100, 20, judge(evidence, ONTOLOGY, 0.6), evidence)
    truth = [TrueBox("dog", tuple(box)) for box in BOXES[real].tolist()]
    return labelled, truth


@pytest.fixture(scope="module")
def run() -> JudgedRun:
    random = np.random.default_rng(3)
    labelled, truth = zip(*(scene(random) for _ in range(60)), strict=True)
    return of_labelled(labelled, ONTOLOGY, truth)


@pytest.fixture(scope="module")
def fitted(run: JudgedRun) -> Calibrator:
    features, right = run.features(), run.right(run.products)
    plain = fit_calibrator(features, run.class_names, right, run.scenes, ontology=ONTOLOGY)
    return with_budgets(plain, [run])


def test_half_of_the_questions_suffice_where_the_score_settles_the_others(
    fitted: Calibrator,
) -> None:
    budget = find_budget(fitted, "auto")
    assert budget is not None
    assert budget.share == pytest.approx(0.5, abs=0.05)
    assert budget.loss <= 0.002
    assert 0 < budget.below[0] < 0.4
    assert 0.6 < budget.above[0] < 1


def test_what_asks_more_loses_less(fitted: Calibrator) -> None:
    shares, losses = zip(*((one.share, one.loss) for one in fitted.budgets), strict=True)
    assert list(shares) == sorted(shares)
    assert list(losses) == sorted(losses, reverse=True)
    assert len(set(shares)) == len(shares)


def test_the_calibrator_before_the_verifier_needs_no_answer(
    fitted: Calibrator, run: JudgedRun
) -> None:
    before = fitted.before
    assert before is not None
    assert not set(before.features) & set(VERIFIER_FEATURES)
    unasked = replace(run, found=replace(run.found, p_yes=np.full_like(run.found.p_yes, np.nan)))
    known = before.probabilities(unasked.features(), run.class_names)
    assert np.array_equal(known, before.probabilities(run.features(), run.class_names))
    assert Calibrator.from_json(fitted.to_json()) == fitted
