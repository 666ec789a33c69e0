from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Image, Labelled, Proposals
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import BadSetting, Unavailable
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, EmptyReason, Outcome, View

EYEWEAR = Ontology(
    (
        ClassSpec("glasses on", ("person",), "On?", group="eyes"),
        ClassSpec("glasses off", ("person",), "Off?", group="eyes"),
        ClassSpec("dog", question="Dog?"),
    )
)
PETS = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat", question="Cat?")))


def street(image: Image, phrases: Sequence[str]) -> list[Row]:
    """One person on the left of every image, a dog on the right of those that are named so."""
    rows: list[Row] = [((1, 1, 12, 20), {"person": 0.8})]
    if "dog" in image.name:
        rows.append(((20, 5, 39, 25), {"dog": 0.7, "person": 0.12}))
    return rows


def told(pipeline: Pipeline, *tasks: Task) -> list[list[tuple[str, Outcome]]]:
    return [
        [(j.class_name, j.decision.outcome) for j in labelled.judgements]
        for labelled in pipeline.label(tasks)
    ]


def test_both_stages() -> None:
    verifier = ScriptedVerifier({"On?": 0.95, "Off?": 0.02, "Dog?": 0.5})
    pipeline = Pipeline(ScriptedProposer(street), verifier)
    (labelled,) = pipeline.label([Task(make_image("dog street"), EYEWEAR)])
    on, off, dog = labelled.judgements
    assert (on.class_name, on.decision.outcome) == ("glasses on", Outcome.ACCEPT)
    assert (off.class_name, off.decision.outcome) == ("glasses off", Outcome.REJECT)
    assert (dog.class_name, dog.decision.outcome) == ("dog", Outcome.UNSURE)
    assert on.box == off.box == (1, 1, 12, 20)
    assert (on.score, dog.score) == (pytest.approx(0.8), pytest.approx(0.7))
    assert on.verdict is not None
    assert on.verdict.question == "On?"
    assert (labelled.proposals, labelled.width, labelled.height) == (2, 40, 30)
    models = (labelled.evidence.proposer, labelled.evidence.verifier)
    assert models == ("scripted@p0", "scripted@v0")
    assert labelled.of(Outcome.ACCEPT) == (on,)
    assert labelled.empty is None
    assert verifier.views == 2


def test_a_batch_gives_what_single_images_give() -> None:
    script = {"On?": 0.9, "Off?": 0.1, "Dog?": 0.7, "Cat?": 0.0}
    tasks = [
        Task(make_image("street", shade=10), EYEWEAR),
        Task(make_image("dog", shade=20), PETS),
        Task(make_image("dog street", shade=30), EYEWEAR),
        Task(make_image("nothing", shade=40), PETS),
    ]
    proposer = ScriptedProposer(street)
    together = told(Pipeline(proposer, ScriptedVerifier(script)), *tasks)
    alone = [told(Pipeline(proposer, ScriptedVerifier(script)), task)[0] for task in tasks]
    assert together == alone
    assert proposer.batches[:2] == [2, 2]


def test_results_keep_the_order_and_the_names() -> None:
    tasks = [Task(make_image(f"p{i}"), EYEWEAR if i % 3 else PETS) for i in range(7)]
    labelled = Pipeline(ScriptedProposer(street), ScriptedVerifier()).label(tasks)
    assert [item.name for item in labelled] == [f"p{i}" for i in range(7)]


def test_questions_about_one_view_are_asked_together_and_once() -> None:
    ontology = Ontology(
        (
            ClassSpec("a", ("person",), "Same?"),
            ClassSpec("b", ("person",), "Same?"),
            ClassSpec("c", ("person",), "Other?"),
            ClassSpec("d", ("person",), "Same?", view=View.IMAGE),
        )
    )
    verifier = ScriptedVerifier(0.9)
    (labelled,) = Pipeline(ScriptedProposer(street), verifier).label(
        [Task(make_image("p"), ontology)]
    )
    assert sorted(verifier.questions) == ["Other?", "Same?", "Same?"]
    assert verifier.views == 2
    assert len(labelled.of(Outcome.ACCEPT)) == 4


def test_a_verifier_that_is_down_makes_everything_unsure() -> None:
    def down(question: str) -> Answer:
        raise Unavailable("no answer")

    (found,) = told(
        Pipeline(ScriptedProposer(street), ScriptedVerifier(down)), Task(make_image("dog"), EYEWEAR)
    )
    assert [outcome for _, outcome in found] == [Outcome.UNSURE] * 3


def test_without_a_verifier_scores_decide() -> None:
    (labelled,) = Pipeline(ScriptedProposer(street), None).label([Task(make_image("dog"), PETS)])
    assert [(j.class_name, j.decision.outcome) for j in labelled.judgements] == [
        ("dog", Outcome.ACCEPT)
    ]
    assert labelled.judgements[0].verdict is None
    assert labelled.evidence.verifier == ""


def test_an_image_with_nothing_was_seen_by_nobody_twice() -> None:
    for verifier in (ScriptedVerifier(), None):
        empty = Pipeline(ScriptedProposer(lambda image, phrases: []), verifier)
        (labelled,) = empty.label([Task(make_image("p"), PETS)])
        assert labelled.judgements == labelled.evidence.image_verdicts == ()
        assert labelled.empty is labelled.result.empty is EmptyReason.NOTHING_PROPOSED
    assert Pipeline(ScriptedProposer(), ScriptedVerifier(), ASKED).label([]) == []


ASKED = PipelineSettings(verify_empty=True)
NO = {"Does this picture show a dog?": 0.1, "Does this picture show a cat?": 0.4}


def asked(
    rows: list[Row], answers: dict[str, float], settings: PipelineSettings = ASKED
) -> tuple[Labelled, ScriptedVerifier]:
    verifier = ScriptedVerifier(answers)
    pipeline = Pipeline(ScriptedProposer(lambda image, phrases: rows), verifier, settings)
    (labelled,) = pipeline.label([Task(make_image("p"), PETS)])
    return labelled, verifier


def test_an_image_is_verified_empty_where_every_answer_is_no() -> None:
    for rows in ([], [((1, 1, 12, 20), {"dog": 0.8})]):
        labelled, verifier = asked(rows, {**NO, "Dog?": 0.05})
        assert labelled.empty is EmptyReason.VERIFIED_EMPTY
        assert labelled.of(Outcome.UNSURE) == ()
        found = labelled.result.image_verdicts
        assert [(v.question, v.view, v.answer.p_yes) for v in found] == [
            (question, View.IMAGE, p_yes) for question, p_yes in NO.items()
        ]
        assert verifier.questions[-2:] == list(NO)
        assert judge(labelled.evidence, PETS, ASKED.nms_iou) == labelled.judgements


@pytest.mark.parametrize("answer", [0.41, 0.95, Answer(None, "maybe"), Answer(None, error="down")])
def test_any_other_answer_leaves_the_whole_image_unsure_for_that_class(answer: object) -> None:
    said = {**NO, "Does this picture show a cat?": answer}
    labelled, _ = asked([], said)  # type: ignore[arg-type]
    (doubt,) = labelled.judgements
    assert (doubt.class_name, doubt.outcome, doubt.whole_image) == ("cat", Outcome.UNSURE, True)
    assert (doubt.box, doubt.score) == ((0, 0, 40, 30), 0)
    assert doubt.question == "Does this picture show a cat?"
    assert doubt.reason.startswith("not verified to be empty: ")
    assert labelled.empty is labelled.result.empty is None
    assert judge(labelled.evidence, PETS, ASKED.nms_iou) == labelled.judgements


def test_only_empty_images_are_asked_about() -> None:
    for outcome, p_yes in ((Outcome.ACCEPT, 0.9), (Outcome.UNSURE, 0.5)):
        labelled, verifier = asked([((1, 1, 12, 20), {"dog": 0.8})], {"Dog?": p_yes})
        assert [j.outcome for j in labelled.judgements] == [outcome]
        assert verifier.questions == ["Dog?"]
        assert labelled.evidence.image is None


def test_classes_with_one_presence_question_share_its_answer() -> None:
    shared = {"presence_question": "Is there an animal?"}
    animals = Ontology((ClassSpec("dog", **shared), ClassSpec("cat", **shared)))  # type: ignore[arg-type]
    verifier = ScriptedVerifier(0.5)
    pipeline = Pipeline(ScriptedProposer(lambda image, phrases: []), verifier, ASKED)
    (labelled,) = pipeline.label([Task(make_image("p"), animals)])
    assert verifier.questions == ["Is there an animal?"]
    assert [j.class_name for j in labelled.judgements] == ["dog", "cat"]


def test_of_several_tiles_each_must_be_answered_with_no() -> None:
    tiles = replace(ASKED, empty_tiles=2)
    verified, verifier = asked([], NO, tiles)
    assert verified.empty is EmptyReason.VERIFIED_EMPTY
    assert len(verified.result.image_verdicts) == 8
    assert verifier.views == 1  # the tiles of a plain image are one view
    assert {verdict.view for verdict in verified.result.image_verdicts} == {View.CROP}
    said = iter([0.1, 0.1, 0.7, 0.1])

    def one_tile(question: str) -> Answer:
        return Answer(next(said) if "dog" in question else 0.1)

    pipeline = Pipeline(
        ScriptedProposer(lambda image, phrases: []), ScriptedVerifier(one_tile), tiles
    )
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)  # no two tiles are alike
    (labelled,) = pipeline.label([Task(Image(pixels, "0" * 64), PETS)])
    (doubt,) = labelled.judgements
    assert (doubt.class_name, doubt.p_yes, doubt.box) == ("dog", 0.7, (0, 0, 40, 30))


def test_verifying_empty_images_needs_a_verifier() -> None:
    with pytest.raises(BadSetting, match="--verifier is none"):
        Pipeline(ScriptedProposer(), None, ASKED)


def test_runs_of_before_are_recorded_as_before() -> None:
    known = {"score_floor", "max_boxes", "nms_iou", "duplicate_iou"}
    assert set(PipelineSettings().recorded()) == known
    assert ASKED.recorded()["verify_empty"] is True


def test_limits_bound_the_work() -> None:
    def crowd(image: Image, phrases: Sequence[str]) -> list[Row]:
        return [((i, 0, i + 1, 9), {"dog": 0.3 + i / 100}) for i in range(30)]

    limits = PipelineSettings(score_floor=0.4, max_boxes=5)
    pipeline = Pipeline(ScriptedProposer(crowd), ScriptedVerifier(), limits)
    (labelled,) = pipeline.label([Task(make_image("p"), PETS)])
    assert labelled.proposals == 5
    assert min(j.score for j in labelled.judgements) == pytest.approx(0.55)


def test_a_proposer_that_loses_a_image_is_an_error_and_no_mixing_up() -> None:
    class Forgetful(ScriptedProposer):
        def propose(
            self, images: Sequence[Image], phrases: Sequence[str], floor: float
        ) -> list[Proposals]:
            return super().propose(images[1:], phrases, floor)

    with pytest.raises(ValueError, match="zip"):
        Pipeline(Forgetful(), None).label(
            [Task(make_image("p"), PETS), Task(make_image("q"), PETS)]
        )


def test_judgements_do_not_depend_on_the_cache() -> None:
    script = {"On?": 0.9, "Off?": 0.1, "Dog?": 0.7}
    pipeline = Pipeline(ScriptedProposer(street), ScriptedVerifier(script))
    task = Task(make_image("dog street"), EYEWEAR)
    first, second = told(pipeline, task), told(pipeline, task)
    assert first == second
    (labelled,) = pipeline.label([task])
    assert all(j.verdict is not None and j.verdict.cached for j in labelled.judgements)


def test_scores_are_plain_numbers() -> None:
    (labelled,) = Pipeline(ScriptedProposer(street), None).label([Task(make_image("dog"), PETS)])
    (judgement,) = labelled.judgements
    assert not isinstance(judgement.score, np.generic)
    assert not any(isinstance(value, np.generic) for value in judgement.box)
