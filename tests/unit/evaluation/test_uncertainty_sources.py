"""What each way of measuring makes of the judgements on an image."""

from collections.abc import Sequence

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from hypothesis import given
from hypothesis import strategies as st
from stored import ANSWERS, LIMITS, STREET, labelled, street_ontology

from secondlook.core.types import Image, Pixels
from secondlook.detector.detections import Detections
from secondlook.evaluation.student_committee import Member, StudentCommittee
from secondlook.evaluation.uncertainty import decision_uncertainty
from secondlook.evaluation.uncertainty_sources import (
    Committee,
    EdgeDistribution,
    MonteCarlo,
    Shown,
    _shown_again,
)
from secondlook.labeling.pipeline import Pipeline
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.uncertainties import LabelUncertainty
from secondlook_client.values import Answer, Outcome, View

ONTOLOGY = street_ontology()
PIXELS = np.zeros((30, 40, 3), np.uint8)
IMAGE = Image(PIXELS, "a" * 64, "street")
OFF, DOG = 1, 2
"""Places of judgements of ``labelled``: a rejected side of a contrast, and the dog at 20, 5."""
DOG_BOX = STREET[1][0]


def test_a_confidence_against_the_decision_is_an_uncertainty() -> None:
    assert decision_uncertainty(Outcome.ACCEPT, 0.9) == pytest.approx(0.1)
    assert decision_uncertainty(Outcome.REJECT, 0.9) == pytest.approx(0.9)
    assert decision_uncertainty(Outcome.UNSURE, 0.9) == pytest.approx(0.1)
    assert decision_uncertainty(Outcome.UNSURE, 0.2) == pytest.approx(0.2)


class PickyVerifier(ScriptedVerifier):
    """Takes only the questions of the run, and those that ask whether something is here."""

    def check_questions(self, questions: Sequence[str]) -> None:
        for question in questions:
            if question not in ANSWERS and "here" not in question:
                raise BadOntology("unknown words")


def monte_carlo(answers: object, **options: object) -> tuple[MonteCarlo, PickyVerifier]:
    verifier = PickyVerifier(answers)  # type: ignore[arg-type]
    proposer = ScriptedProposer(lambda image, phrases: [])
    return MonteCarlo(Pipeline(proposer, verifier, LIMITS), **options), verifier  # type: ignore[arg-type]


def test_the_verifier_is_asked_again_on_other_views_and_in_other_words() -> None:
    def answers(question: str) -> float | Answer:
        return {"Dog?": 0.9, "Is there a dog here?": 0.1}.get(question, Answer(None, "well"))

    source, verifier = monte_carlo(answers, views=2)
    found = source.measure(IMAGE, labelled(), ONTOLOGY)
    # Twice of two further views, and the new words on the first, whose answer the run has.
    assert found[DOG].figures["answers"] == pytest.approx([0.5, 0.1, 0.9, 0.1, 0.9, 0.1])
    assert verifier.questions.count("Dog?") == 2, "on two further views"
    # The sides of a contrast share the views of their box, and boxes of the blank image share two.
    assert verifier.views == 4
    assert found[DOG].reason == "the verifier said yes 2 of 6 times", "neither view shows the box"
    assert found[DOG].figures["views"] == pytest.approx([0.7])
    assert found[DOG].confidence == pytest.approx((2.6 / 6 + 0.7) / 2)
    assert found[OFF].figures["answers"] == [0.02], "an abstention is no answer"
    assert "scripted@p0 → scripted@v0; 2 more views" in source.source


def test_without_further_views_only_words_are_asked_and_without_a_verifier_only_views() -> None:
    source, verifier = monte_carlo(lambda question: 0.5, views=0)
    found = source.measure(IMAGE, labelled(), ONTOLOGY)
    assert set(verifier.questions) == {
        "Is there a glasses on here?",
        "Is there a glasses off here?",
        "Is there a dog here?",
    }
    assert found[DOG].figures["views"] == []
    alone = MonteCarlo(Pipeline(ScriptedProposer(lambda i, p: []), None, LIMITS), views=6)
    of_dog = alone.measure(IMAGE, labelled(answers=None), ONTOLOGY)[DOG]
    assert of_dog.figures["answers"] == [] and of_dog.confidence == pytest.approx(0.35)
    assert of_dog.reason == "the proposer found it again in 0 of 1 views"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 7}, "0 to 6 further views"),
        ({"views": 0, "wordings": ()}, "nothing to ask again"),
        ({"wordings": ("Is this it?",)}, "one {} where the class belongs"),
        ({"wordings": ("Is {} a {}?",)}, "one {} where the class belongs"),
        ({"wordings": ("Is {}\n?",)}, "one {} where the class belongs"),
        ({"wordings": tuple(f"{{}} {n}?" for n in range(9))}, "at most 8 wordings"),
    ],
)
def test_what_cannot_be_asked_is_told(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("{", r"\{").replace("}", r"\}")):
        monte_carlo(1.0, **options)


SIDES = st.tuples(st.floats(0, 20), st.floats(0, 10), st.floats(21, 40), st.floats(11, 30))


@given(SIDES, st.booleans(), st.floats(0.8, 1.3))
def test_a_box_that_is_shown_again_stays_inside_and_holds_its_middle(
    box: tuple[float, float, float, float], mirrored: bool, scale: float
) -> None:
    flipped = Image(PIXELS[:, ::-1], "b" * 64)
    shown = _shown_again(IMAGE, flipped, box, View.CROP, Shown(mirrored, scale))
    x1, y1, x2, y2 = shown.box
    assert 0 <= x1 < x2 <= 40 and 0 <= y1 < y2 <= 30
    assert shown.image is (flipped if mirrored else IMAGE)
    across = (box[0] + box[2]) / 2
    assert x1 < (40 - across if mirrored else across) < x2


def detections(*found: tuple[Sequence[float], float, int]) -> Detections:
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float32)
    return Detections(boxes, scores, np.array([place for _, _, place in found], np.int64))


def test_the_committee_hears_a_student_on_the_classes_that_it_knows() -> None:
    found = detections((DOG_BOX, 0.3, 1), ((0, 0, 5, 5), 0.9, 1), (DOG_BOX, 0.8, 0))
    source = Committee(lambda images: [found], ("car", "dog"), "student one")
    told = source.measure(IMAGE, labelled(), ONTOLOGY)
    assert told[DOG].figures == {
        "proposer": (pytest.approx(0.7),),
        "probability": (0.5,),
        "student": (pytest.approx(0.3),),
    }
    assert told[DOG].confidence == pytest.approx(0.5)
    assert told[DOG].reason == "proposer 0.70, probability 0.50, student 0.30"
    assert "student" not in told[OFF].figures
    assert told[DOG].value == pytest.approx(0.5), "the run was unsure of the dog"


class ScriptedEdges:
    """A student of dogs with given bins."""

    name = "student edges"
    classes = ("dog",)

    def __init__(self, found: Detections, bins: Sequence[float]) -> None:
        self.found, self.bins = found, np.array(bins, np.float32)

    def detect(self, images: Sequence[Pixels], floor: float) -> list[Detections]:
        return [self.found]

    def edge_bins(self, image: Pixels, found: Detections) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(found), 4, len(self.bins))
        return np.broadcast_to(self.bins, shape), np.array([-0.1, 0.0, 0.1], np.float32)


def test_the_edges_of_the_students_box_say_how_sure_it_is_of_the_outline() -> None:
    here = detections((DOG_BOX, 0.9, 0))
    sure, loose = (
        EdgeDistribution(ScriptedEdges(here, bins)).measure(IMAGE, labelled(), ONTOLOGY)
        for bins in ((0, 1, 0), (1 / 3, 1 / 3, 1 / 3))
    )
    assert sure[DOG].confidence == pytest.approx(1) and loose[DOG].confidence == 0
    assert OFF not in sure, "the student does not know the class"
    assert loose[DOG].figures["entropy"] == pytest.approx([1] * 4)
    width = 0.1 * np.sqrt(2 / 3)
    assert loose[DOG].figures["width"] == pytest.approx([width] * 4)
    assert "left ±1.6, top ±1.6, right ±1.6, bottom ±1.6" in loose[DOG].reason  # of 19 and 20 px
    nothing = EdgeDistribution(ScriptedEdges(detections(), (0, 1, 0)))
    (dog, *_) = [
        one for at, one in nothing.measure(IMAGE, labelled(), ONTOLOGY).items() if at == DOG
    ]
    assert dog.confidence == 0 and dog.reason == "the student finds no such box"


def test_an_image_without_a_box_has_nothing_to_measure() -> None:
    empty = labelled("empty", rows=())
    source, verifier = monte_carlo(1.0)
    assert source.measure(IMAGE, empty, ONTOLOGY) == {} and not verifier.questions
    assert Committee(lambda images: [], ("dog",), "s").measure(IMAGE, empty, ONTOLOGY) == {}


def test_students_disagree_about_what_some_find_and_others_do_not() -> None:
    def member(name: str, score: float, classes: Sequence[str] = ("dog", "cat")) -> Member:
        box = np.array([DOG_BOX], np.float32)
        found = Detections(box, np.array([score], np.float32), np.zeros(1, np.int64))
        return Member(lambda images: [found for _ in images], classes, name)

    def measured(*members: Member) -> LabelUncertainty:
        committee = StudentCommittee(members)
        assert committee.source == "; ".join(one.name for one in members)
        found = committee.measure(IMAGE, labelled(), ONTOLOGY)
        assert OFF not in found, "no student knows that class"
        return found[DOG]

    apart = measured(member("a", 1.0), member("b", 0.0))
    assert apart.value == pytest.approx(1, abs=1e-4) and apart.confidence == pytest.approx(0.5)
    assert apart.reason == "students 1.00, 0.00" and apart.figures["students"] == [1, 0]
    unsure = measured(member("a", 0.5), member("b", 0.5), member("c", 0.5))
    assert unsure.value == pytest.approx(0, abs=1e-6), "all are unsure alike"
    with pytest.raises(InvalidInput, match="2 to 8 students, got 1"):
        StudentCommittee([member("a", 1.0)])
    strangers = StudentCommittee([member("a", 1.0), member("b", 1.0, ["cat"])])
    assert not strangers.measure(IMAGE, labelled(), ONTOLOGY), "not all know what a dog is"
