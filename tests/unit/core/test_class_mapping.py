import numpy as np
import pytest
from stored import labelled, street_ontology

from secondlook.core.class_mapping import check_questions, columns_for
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import View

KEPT = Ontology(
    (
        ClassSpec("car"),
        ClassSpec("van", ("van", "camper")),
        ClassSpec("dog", question="Is this a dog?"),
    )
)


def test_the_same_classes_stay_where_they_are() -> None:
    columns = columns_for(street_ontology(), street_ontology(threshold=0.5))
    assert columns.places == ((0,), (0,), (2,))
    said = labelled().evidence
    seen = columns_for(street_ontology(accept=0.9), street_ontology()).apply(said)
    assert np.array_equal(seen.proposals.scores, said.proposals.scores)
    assert seen.verdicts is said.verdicts


def test_names_order_and_case_are_free() -> None:
    wanted = Ontology((ClassSpec("hound", ("DOG",)), ClassSpec("auto", ("car",))))
    assert columns_for(wanted, KEPT).places == ((2,), (0,))


def test_one_class_of_several_takes_the_best_score() -> None:
    wanted = Ontology((ClassSpec("vehicle", ("car", "camper", "van")),))
    columns = columns_for(wanted, KEPT)
    assert columns.places == ((0, 1),)
    scores = np.array([[0.1, 0.4, 0.9], [0.3, 0.2, 0.0]], dtype=np.float32)
    assert columns.scores(scores).tolist() == [[scores[0, 1]], [scores[1, 0]]]


def test_no_box_is_no_trouble() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert columns_for(KEPT, KEPT).scores(nothing).shape == (0, 3)


@pytest.mark.parametrize("phrases", [("cat",), ("camper",), ("car", "camper")])
def test_phrases_without_their_own_score_are_refused(phrases: tuple[str, ...]) -> None:
    missing = phrases[-1]
    with pytest.raises(BadOntology, match=f"no scores for '{missing}' alone.*'van / camper'"):
        columns_for(Ontology((ClassSpec("new", phrases),)), KEPT)


def test_a_question_or_view_never_asked_is_refused() -> None:
    check_questions(Ontology((ClassSpec("hound", ("dog",), "Is this a dog?"),)), KEPT)
    with pytest.raises(BadOntology, match="'Furry\\?' was not asked"):
        check_questions(Ontology((ClassSpec("dog", question="Furry?"),)), KEPT)
    other_view = Ontology((ClassSpec("dog", view=View.CONTEXT),))
    with pytest.raises(BadOntology, match="of a box's context"):
        check_questions(other_view, KEPT)
