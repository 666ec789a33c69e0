import hashlib
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.store.ontologies import read_ontology
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import MAX_CLASSES, ClassSpec, Ontology, normal, spec_fields
from secondlook_client.values import BoxSource, View


def test_defaults_come_from_the_name() -> None:
    dog, owl = ClassSpec("dog"), ClassSpec("owl")
    assert dog.phrases == ("dog",)
    assert dog.question == "Is this a dog?"
    assert owl.question == "Is this an owl?"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"name": ""}, "empty"),
        ({"name": "  "}, "empty"),
        ({"name": "dog\ncat"}, "control character"),
        ({"name": "half \ud800 character"}, "control character"),
        ({"name": "x" * 121}, "at most 120"),
        ({"name": 3}, "expected text"),
        ({"name": "dog", "phrases": ("a dog. a cat",)}, "'.'"),
        ({"name": "mr. dog"}, "ends a phrase"),
        ({"name": "dog", "phrases": ("is it?",)}, "'?'"),
        ({"name": "dog", "phrases": ("",)}, "empty"),
        ({"name": "dog", "phrases": "dog"}, "list of phrases"),
        ({"name": "dog", "phrases": tuple(map(str, range(17)))}, "at most 16"),
        ({"name": "dog", "question": "x" * 501}, "at most 500"),
        ({"name": "dog", "threshold": 1.5}, "between 0 and 1"),
        ({"name": "dog", "accept": float("nan")}, "between 0 and 1"),
        ({"name": "dog", "reject": "0.1"}, "between 0 and 1"),
        ({"name": "dog", "accept": 0.3, "reject": 0.4}, "above accept"),
        ({"name": "dog", "view": "sideways"}, "crop, context, image"),
        ({"name": "dog", "mask": "yes"}, "mask true or false, got 'yes'"),
        ({"name": "dog", "box": "tight"}, "expected box proposer, mask, got 'tight'"),
        ({"name": "dog", "mask": False, "box": "mask"}, "box mask needs masks, and mask is false"),
        ({"name": "dog", "mask": False, "view": "mask"}, "view mask needs masks"),
        ({"name": "dog", "group": "=dog"}, "begins with '='"),
        ({"name": "dog", "group": "a\tb"}, "control character"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(entries: dict, said: str) -> None:
    with pytest.raises(BadOntology, match=said.replace("?", r"\?").replace(".", r"\.")):
        ClassSpec(**entries)


def test_views_may_be_given_as_words() -> None:
    assert ClassSpec("dog", view="image").view is View.IMAGE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((), "no class"),
        (tuple(ClassSpec(f"c{i}") for i in range(MAX_CLASSES + 1)), "at most"),
        ((ClassSpec("dog"), ClassSpec("Dog")), "twice"),
        ((ClassSpec("dog", group="pet"), ClassSpec("car")), "holds only 'dog'"),
        (
            (
                ClassSpec("on", group="g", question="Is it?"),
                ClassSpec("off", group="g", question="is it?"),
            ),
            "contradict",
        ),
    ],
)
def test_classes_that_do_not_fit_together_are_refused(
    classes: tuple[ClassSpec, ...], said: str
) -> None:
    with pytest.raises(BadOntology, match=said):
        Ontology(classes)


def test_phrases_are_shared_and_normal() -> None:
    ontology = Ontology((ClassSpec("a", ("Big  Dog", "cat")), ClassSpec("b", ("big dog",))))
    assert ontology.phrases == ("big dog", "cat")
    assert ontology.names == ("a", "b")


def test_every_class_is_in_one_group() -> None:
    ontology = Ontology((ClassSpec("on", group="g"), ClassSpec("dog"), ClassSpec("off", group="g")))
    assert ontology.groups == {"g": (0, 2), "=dog": (1,)}


@given(st.text(max_size=30))
def test_normal_is_idempotent(phrase: str) -> None:
    assert normal(normal(phrase)) == normal(phrase)


def test_digest_tells_ontologies_apart() -> None:
    one = Ontology((ClassSpec("dog"),))
    assert one.digest == Ontology((ClassSpec("dog", ("dog",), "Is this a dog?"),)).digest
    for change in (
        {"question": "Dog?"},
        {"threshold": 0.3},
        {"view": View.IMAGE},
        {"mask": True},
        {"mask": False},
        {"box": BoxSource.MASK},
        {"presence_question": "Any dog?"},
    ):
        assert Ontology((replace(one.classes[0], **change),)).digest != one.digest


def test_a_class_that_says_nothing_of_masks_is_kept_as_before_there_were_any() -> None:
    plain, masked = ClassSpec("owl"), ClassSpec("owl", mask=False, box=BoxSource.PROPOSER)
    assert {"mask", "box"}.isdisjoint(spec_fields(plain))
    assert Ontology((plain,)).digest == "d82440c1965c0067"
    assert Ontology((masked,)).digest != Ontology((plain,)).digest
    assert read_ontology(json.dumps([spec_fields(masked)]), Ontology((masked,)).digest)


def test_ontologies_stored_before_there_were_presence_questions_keep_their_digest() -> None:
    (spec,) = Ontology((ClassSpec("owl"),)).classes
    assert spec.presence_question == "Does this picture show an owl?"
    plain = asdict(spec)
    del plain["presence_question"], plain["mask"], plain["box"]  # of later versions
    before = hashlib.sha256(json.dumps([plain], sort_keys=True).encode()).hexdigest()[:16]
    assert Ontology((spec,)).digest == before == read_ontology(json.dumps([plain]), before).digest
