from collections.abc import Sequence
from dataclasses import replace

from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import NOT_ASKED, Image, Labelled
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome

LIMITS = PipelineSettings(score_floor=0.1)


def ontology(threshold: float = 0.25, accept: float = 0.6) -> Ontology:
    cut = {"threshold": threshold, "accept": accept}
    return Ontology(
        (
            ClassSpec("glasses on", ("person",), "On?", group="eyes", **cut),
            ClassSpec("glasses off", ("person",), "Off?", group="eyes", **cut),
            ClassSpec("dog", question="Dog?", **cut),
        )
    )


def labelled(
    rows: Sequence[Row], answers: dict[str, float] | None, asked: Ontology | None = None
) -> Labelled:
    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        return rows

    verifier = ScriptedVerifier(answers) if answers is not None else None
    task = Task(make_image("street"), asked or ontology())
    (found,) = Pipeline(ScriptedProposer(script), verifier, LIMITS).label([task])
    return found


share = st.floats(0, 1, width=32)
corner = st.tuples(st.integers(0, 15), st.integers(0, 10))
row = st.builds(
    lambda at, person, dog: ((*at, at[0] + 12, at[1] + 9), {"person": person, "dog": dog}),
    corner,
    share,
    share,
)


@given(
    rows=st.lists(row, max_size=6),
    answers=st.none() | st.fixed_dictionaries({"On?": share, "Off?": share, "Dog?": share}),
)
def test_evidence_decided_again_gives_what_the_pipeline_gave(
    rows: list[Row], answers: dict[str, float] | None
) -> None:
    found = labelled(rows, answers)
    assert judge(found.evidence, ontology(), LIMITS.nms_iou) == found.judgements


def test_other_thresholds_give_what_the_models_would_have_given_under_them() -> None:
    rows: list[Row] = [((1, 1, 12, 20), {"person": 0.8}), ((20, 5, 39, 25), {"dog": 0.7})]
    answers = {"On?": 0.7, "Off?": 0.1, "Dog?": 0.55}
    strict = ontology(threshold=0.75, accept=0.9)
    now = labelled(rows, answers, strict)
    again = judge(labelled(rows, answers).evidence, strict, LIMITS.nms_iou)
    assert [j.decision for j in again] == [j.decision for j in now.judgements]
    assert [j.decision.outcome for j in again] == [Outcome.UNSURE, Outcome.REJECT]


def test_a_box_below_the_threshold_of_its_run_was_not_asked_about_and_is_unsure() -> None:
    rows: list[Row] = [((1, 1, 12, 20), {"person": 0.2})]
    found = labelled(rows, {"On?": 0.9, "Off?": 0.1})
    assert found.judgements == ()
    lower = judge(found.evidence, ontology(threshold=0.15), LIMITS.nms_iou)
    assert [j.decision.outcome for j in lower] == [Outcome.UNSURE] * 2
    assert all(NOT_ASKED in j.decision.reason for j in lower)


def test_without_a_verifier_lower_thresholds_let_scores_decide() -> None:
    found = labelled([((20, 5, 39, 25), {"dog": 0.2})], None)
    (dog,) = judge(found.evidence, ontology(threshold=0.15), LIMITS.nms_iou)
    assert (dog.class_name, dog.decision.outcome) == ("dog", Outcome.ACCEPT)
    assert replace(dog, row=0) == dog
