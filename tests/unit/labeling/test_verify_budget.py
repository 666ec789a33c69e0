"""Questions that can change nothing are not asked."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import NOT_ASKED, Image, Labelled
from secondlook.labeling.calibrator import Calibrator, ClassFit, VerifyBudget
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.verify_budget import find_budget
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Outcome

STREET = Ontology(
    (
        ClassSpec("on", ("person",), "On?", group="eyes"),
        ClassSpec("off", ("person",), "Off?", group="eyes"),
        ClassSpec("dog", question="Dog?"),
    )
)
NAMES = STREET.names
BUDGET = VerifyBudget(0.4, 0.001, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9))
SIZE = (40, 30)


def by(feature: str) -> Calibrator:
    """The probability is that feature's."""
    fits = (ClassFit(0.0, (1.0,)),) * len(NAMES)
    return Calibrator(NAMES, (feature,), (0.0,), fits)


ABLE = replace(by("p_yes"), before=by("score"), budgets=(BUDGET,))
"""With the answer the probability is P(yes), without it the score; 0.1 and 0.9 are certain."""


def pipeline(
    verifier: ScriptedVerifier | None, rows: Sequence[Row], budget: str = "auto"
) -> Pipeline:
    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        return rows

    settings = PipelineSettings(score_floor=0.01, verify_budget=budget, verdict_cache_size=0)
    return Pipeline(ScriptedProposer(script), verifier, settings)


def labelled(
    scores: dict[str, float], answers: dict[str, float | Answer], ontology: Ontology = STREET
) -> tuple[Labelled, list[str]]:
    """One box with these scores by phrase, and the questions that were asked."""
    verifier = ScriptedVerifier(lambda question: answers[question])
    made = pipeline(verifier, [((1, 1, 12, 20), scores)])
    made.use_calibrator(ABLE)
    made.check_ontology(ontology)
    (found,) = made.label([Task(make_image("street"), ontology)])
    size = found.width, found.height
    again = judge(found.evidence, ontology, 0.6, ABLE, size, verify_budget="auto")
    assert again == found.judgements
    return found, verifier.questions


@pytest.mark.parametrize(
    ("score", "outcome", "reason"),
    [
        (0.98, Outcome.ACCEPT, "not asked: probability 0.98 ≥ 0.60 without the verifier's answer"),
        (0.05, Outcome.REJECT, "not asked: probability 0.05 ≤ 0.40 without the verifier's answer"),
        (0.7, Outcome.ACCEPT, "probability 0.80 ≥ 0.60 (P(yes) 0.80)"),
    ],
)
def test_what_is_certain_either_way_is_not_asked(
    score: float, outcome: Outcome, reason: str
) -> None:
    low = Ontology((replace(STREET.classes[2], threshold=0.02),))
    found, asked = labelled({"dog": score}, {"Dog?": 0.8}, low)
    (dog,) = found.judgements
    assert (dog.outcome, dog.reason) == (outcome, reason)
    assert asked == ([] if "not asked" in reason else ["Dog?"])


def test_what_is_certain_and_between_the_limits_of_its_class_is_asked() -> None:
    strict = Ontology((replace(STREET.classes[2], accept=0.99),))
    found, asked = labelled({"dog": 0.95}, {"Dog?": 0.995}, strict)
    assert asked == ["Dog?"]
    assert found.judgements[0].reason == "probability 0.9950 ≥ 0.9900 (P(yes) 0.99)"


@pytest.mark.parametrize(
    ("p_yes", "outcomes"),
    [
        (0.97, (Outcome.ACCEPT, Outcome.REJECT)),
        (0.03, (Outcome.REJECT, Outcome.ACCEPT)),
        (0.5, (Outcome.UNSURE, Outcome.UNSURE)),
    ],
)
def test_of_a_contrast_one_answer_tells_the_other(
    p_yes: float, outcomes: tuple[Outcome, Outcome]
) -> None:
    found, asked = labelled({"person": 0.5}, {"On?": p_yes})
    on, off = found.judgements
    assert asked == ["On?"]
    assert (on.outcome, off.outcome) == outcomes
    assert off.reason.startswith(f"not asked: probability {1 - p_yes:.2f} ")
    assert off.reason.endswith(" by the answer on 'on'")
    assert off.probability == pytest.approx(1 - p_yes)


@pytest.mark.parametrize("answer", [Answer(None, "maybe"), Answer(None, error="down")])
def test_both_sides_are_unsure_where_the_asked_one_has_no_answer(answer: Answer) -> None:
    found, asked = labelled({"person": 0.5}, {"On?": answer})
    assert asked == ["On?"]
    assert [one.outcome for one in found.judgements] == [Outcome.UNSURE] * 2
    assert all(one.reason.startswith("no verdict: ") for one in found.judgements)


def test_without_a_budget_a_missing_answer_is_what_it_was() -> None:
    found, _ = labelled({"person": 0.98, "dog": 0.98}, {})
    for one in judge(found.evidence, STREET, 0.6, ABLE, SIZE):
        assert (one.outcome, one.reason) == (Outcome.UNSURE, f"no verdict: {NOT_ASKED}")


def test_neighbours_count_as_if_they_had_been_asked() -> None:
    """The rival is certain and unasked; what its answer would be makes the other box improbable."""
    weighed = replace(
        ABLE, features=("p_yes", "overlap_better"), centres=(0.0, 0.0),
        fits=(ClassFit(0.0, (1.0, -9.0)),) * 3,
    )  # fmt: skip
    rows = [((1, 1, 12, 20), {"dog": 0.98}), ((1, 1, 12, 15), {"dog": 0.5})]
    verifier = ScriptedVerifier({"Dog?": 0.9})
    made = pipeline(verifier, rows)
    made.use_calibrator(weighed)
    dogs = Ontology((STREET.classes[2],))
    made.settings = replace(made.settings, nms_iou=1.0)
    (found,) = made.label([Task(make_image("street"), dogs)])
    assert verifier.questions == ["Dog?"]
    sure, other = found.judgements
    assert sure.outcome is Outcome.ACCEPT
    assert other.reason.startswith("probability 0.01 ≤ 0.40 (P(yes) 0.90)")


def test_a_share_takes_the_largest_budget_within_it() -> None:
    more = replace(BUDGET, share=0.5, loss=0.0)
    able = replace(ABLE, budgets=(replace(BUDGET, loss=0.01), more))
    assert find_budget(able, "0.45") == able.budgets[0]
    assert find_budget(able, "0.7") == find_budget(able, "auto") == more
    assert find_budget(able, "all") is None
    assert find_budget(able, "1") is None
    with pytest.raises(BadSetting, match=r"can do with 0\.40 of the questions at least"):
        find_budget(able, "0.2")


@pytest.mark.parametrize("setting", ["", "0", "-0.1", "1.5", "nan", "most"])
def test_other_words_are_refused_before_anything_runs(setting: str) -> None:
    with pytest.raises(BadSetting, match="expected a share of the questions above 0"):
        pipeline(ScriptedVerifier({}), [], setting)


def test_a_budget_needs_a_verifier_and_a_calibrator_that_can_do_without_it() -> None:
    with pytest.raises(BadSetting, match="--verifier is none"):
        pipeline(None, [])
    made = pipeline(ScriptedVerifier({}), [])
    for calibrator in (None, replace(ABLE, before=None, budgets=())):
        made.use_calibrator(calibrator)
        with pytest.raises(BadSetting, match="needs a calibrator that can judge these classes"):
            made.check_ontology(STREET)
