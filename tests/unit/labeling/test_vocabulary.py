"""Which class a phrase means: the same words, and nothing that merely looks like them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.labeling.vocabulary import Vocabulary, check_words
from secondlook.models.class_names import COCO
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import ClassSpec, Ontology

KNOWN = Vocabulary(COCO, "the detector 'd'")


@given(st.sampled_from(COCO), st.sampled_from([str.upper, str.title, str.lower]))
def test_every_name_means_its_class(name: str, case: object) -> None:
    column = COCO.index(name)
    assert KNOWN.find(case(name)) == column  # type: ignore[operator]
    assert KNOWN.find(name.replace(" ", "_")) == column
    assert KNOWN.find(f" {name.replace(' ', '-')} ") == column


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("cars", "car"), ("buses", "bus"), ("people", "person"), ("wine glasses", "wine glass"),
        ("knives", None), ("man", None), ("dog house", None), ("", None), ("s", None),
        ("ski", "skis"), ("hot", None), ("bus stop", None),
    ],
)  # fmt: skip
def test_numbers_and_nothing_else(phrase: str, name: str | None) -> None:
    assert KNOWN.find(phrase) == (None if name is None else COCO.index(name))


def test_exact_names_go_before_other_numbers() -> None:
    both = Vocabulary(["glasses", "glass"], "d")
    assert both.columns(["glass", "glasses"]) == [1, 0]


def test_columns_without_a_class_have_no_phrase() -> None:
    names = Vocabulary(["background", "face", "N/A", ""], "d")
    assert names.find("face") == 1
    assert [names.find(word) for word in ("background", "n/a", "")] == [None, None, None]


def test_unknown_phrases_are_told_with_what_is_near() -> None:
    with pytest.raises(BadOntology) as refused:
        KNOWN.columns(["person", "girafe", "helmet"])
    words = str(refused.value)
    assert "does not know 'girafe', 'helmet'" in words and "did you mean giraffe?" in words
    assert "80 classes" in words and "bicycle" in words and "toothbrush" not in words


def test_models_without_a_list_take_any_word() -> None:
    ontology = Ontology((ClassSpec("giraffe"),))
    check_words(object(), None, ontology)

    class Dogs:
        def check_phrases(self, phrases: list[str]) -> None:
            raise BadOntology(f"phrases {list(phrases)}")

        def check_questions(self, questions: list[str]) -> None:
            raise BadOntology(f"questions {questions}")

    with pytest.raises(BadOntology, match=r"phrases \['giraffe'\]"):
        check_words(Dogs(), None, ontology)
    with pytest.raises(BadOntology, match=r"questions \['Is this a giraffe\?'\]"):
        check_words(object(), Dogs(), ontology)
