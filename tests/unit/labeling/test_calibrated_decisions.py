"""A calibrator's probability in the place of the verifier's answer."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Image, Labelled
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.labeling.decisions import NEEDS_ANSWER, calibrated_reason, judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import BadSetting, InvalidInput
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Judgement, Outcome

DOGS = Ontology((ClassSpec("dog", question="Dog?"),))
MODELS = ("scripted@p0", "scripted@v0")
ROWS: tuple[Row, ...] = (((1, 1, 12, 20), {"dog": 0.8}),)


def constant(
    probability: float, accept: float | None = None, models: tuple[str, str] = MODELS
) -> Calibrator:
    """The same probability for every dog."""
    fit = ClassFit(math.log(probability / (1 - probability)), ())
    limits = {} if accept is None else {"dog": accept}
    return Calibrator(("dog",), (), (), (fit,), limits, *models)


def by_answer() -> Calibrator:
    """The probability is P(yes)."""
    return Calibrator(("dog",), ("p_yes",), (0.0,), (ClassFit(0.0, (1.0,)),))


def labelled(
    calibrator: Calibrator | None,
    answer: object = 0.5,
    ontology: Ontology = DOGS,
    setting: str = "auto",
    verifier: bool = True,
) -> Labelled:
    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        return ROWS

    asked = ScriptedVerifier({"Dog?": answer}) if verifier else None  # type: ignore[dict-item]
    settings = PipelineSettings(score_floor=0.1, calibrator=setting)
    pipeline = Pipeline(ScriptedProposer(script), asked, settings)
    pipeline.use_calibrator(calibrator)
    (found,) = pipeline.label([Task(make_image("street"), ontology)])
    return found


def the(found: Labelled) -> Judgement:
    (only,) = found.judgements
    return only


@pytest.mark.parametrize(
    ("probability", "outcome", "reason"),
    [
        (0.83, Outcome.ACCEPT, "probability 0.83 ≥ 0.60 (P(yes) 0.10)"),
        (0.2, Outcome.REJECT, "probability 0.20 ≤ 0.40 (P(yes) 0.10)"),
        (0.5, Outcome.UNSURE, "probability 0.50 is between 0.40 and 0.60 (P(yes) 0.10)"),
    ],
)
def test_the_limits_of_the_class_apply_to_it(
    probability: float, outcome: Outcome, reason: str
) -> None:
    found = the(labelled(constant(probability), 0.1))
    assert (found.outcome, found.reason) == (outcome, reason)
    assert found.probability == pytest.approx(probability)
    assert found.p_yes == pytest.approx(0.1)


def test_its_own_limit_counts_where_it_is_higher() -> None:
    assert the(labelled(constant(0.83, accept=0.95))).outcome is Outcome.UNSURE
    assert the(labelled(constant(0.83, accept=0.3))).reason.startswith("probability 0.83 ≥ 0.60")


def test_a_reason_does_not_seem_to_contradict_itself() -> None:
    limit = replace(DOGS.classes[0], accept=0.9731)
    said = calibrated_reason(limit, Outcome.UNSURE, 0.9728, 0.99)
    assert said == "probability 0.9728 is between 0.4000 and 0.9731 (P(yes) 0.99)"


@pytest.mark.parametrize("answer", [Answer(None, "maybe"), Answer(None, error="down")])
def test_without_a_verdict_a_box_stays_unsure_as_ever(answer: Answer) -> None:
    with_one, without = the(labelled(constant(0.99), answer)), the(labelled(None, answer))
    assert with_one.decision == without.decision
    assert with_one.outcome is Outcome.UNSURE


def test_without_a_verifier_it_decides_alone_if_it_can() -> None:
    able = the(labelled(constant(0.83, models=("scripted@p0", "")), verifier=False))
    assert (able.outcome, able.reason) == (
        Outcome.ACCEPT,
        "probability 0.83 ≥ 0.60 (not verified)",
    )
    unable = the(labelled(by_answer(), verifier=False))
    assert (unable.outcome, unable.reason) == (Outcome.UNSURE, NEEDS_ANSWER)


def test_stored_evidence_gives_what_the_pipeline_gave() -> None:
    calibrator = Calibrator(
        ("dog",), ("p_yes", "centre_x", "size"), (0.0, 0.5, -1.0), (ClassFit(0.1, (0.7, 2, -1)),)
    )
    found = labelled(calibrator, 0.7)
    size = (found.width, found.height)
    assert judge(found.evidence, DOGS, 0.6, calibrator, size) == found.judgements
    assert the(found).probability not in (0.7, the(found).score)


def test_contrasts_stay_contrasts() -> None:
    cut = {"group": "eyes", "phrases": ("dog",)}
    eyes = Ontology((ClassSpec("on", question="On?", **cut), ClassSpec("off", **cut)))
    sure = Calibrator(("on", "off"), (), (), (ClassFit(3.0, ()), ClassFit(2.0, ())))
    on, off = judge(labelled(None, ontology=eyes).evidence, eyes, 0.6, sure, (40, 30))
    assert on.outcome is off.outcome is Outcome.UNSURE
    assert "no verdict" in on.reason


def test_contrasts_contradict() -> None:
    cut = {"group": "eyes", "phrases": ("dog",)}
    eyes = Ontology((ClassSpec("on", question="Dog?", **cut), ClassSpec("off", **cut)))
    sure = Calibrator(("on", "off"), (), (), (ClassFit(3.0, ()), ClassFit(2.0, ())))
    settings = PipelineSettings(score_floor=0.1)
    answers = ScriptedVerifier({"Dog?": 0.1, eyes.classes[1].question: 0.1})
    pipeline = Pipeline(ScriptedProposer(lambda *_: ROWS), answers, settings)
    pipeline.use_calibrator(sure)
    (found,) = pipeline.label([Task(make_image("street"), eyes)])
    assert {one.reason for one in found.judgements} == {
        "these contradict each other: 'on' and 'off'"
    }


def test_auto_leaves_out_what_it_does_not_fit() -> None:
    cats = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat")))
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    pipeline.use_calibrator(constant(0.83))
    assert pipeline.calibrator_for(DOGS) == constant(0.83)
    assert pipeline.calibrator_for(cats) is None
    pipeline.check_ontology(cats)
    pipeline.use_calibrator(constant(0.83, models=("scripted@p0", "scripted@v1")))
    assert pipeline.calibrator_for(DOGS) is None


def test_a_calibrator_that_was_asked_for_must_fit() -> None:
    settings = PipelineSettings(calibrator="mine.json")
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier(), settings)
    with pytest.raises(BadSetting, match="fitted to the verifier scripted@v1, and this is scrip"):
        pipeline.use_calibrator(constant(0.83, models=("scripted@p0", "scripted@v1")))
    pipeline.use_calibrator(constant(0.83))
    pipeline.check_ontology(DOGS)
    with pytest.raises(InvalidInput, match="no class 'cat'"):
        pipeline.check_ontology(Ontology((ClassSpec("cat"),)))
