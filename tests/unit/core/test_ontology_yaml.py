import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.ontology_yaml import (
    dump,
    load_ontology,
    ontology_from_lines,
    ontology_from_yaml,
)
from secondlook_client.errors import BadOntology, NotFound, SecondlookError
from secondlook_client.ontology import MAX_NAME, ClassSpec, Ontology, default_question
from secondlook_client.values import BoxSource, View


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dog", [ClassSpec("dog")]),
        ("dog, cat", [ClassSpec("dog"), ClassSpec("cat")]),
        ("truck = lorry, pickup truck", [ClassSpec("truck", ("lorry", "pickup truck"))]),
        ("puppy ? Is it young?", [ClassSpec("puppy", question="Is it young?")]),
        (
            "person wearing glasses = person ? Is this person wearing glasses?",
            [ClassSpec("person wearing glasses", ("person",), "Is this person wearing glasses?")],
        ),
        ("a = b ? Is 1 = 1, or not?", [ClassSpec("a", ("b",), "Is 1 = 1, or not?")]),
        ("straße = rue", [ClassSpec("straße", ("rue",))]),
    ],
)
def test_one_line_forms(line: str, expected: list[ClassSpec]) -> None:
    assert ontology_from_lines([line]).classes == tuple(expected)


def test_groups_on_one_line() -> None:
    found = ontology_from_lines(["on @head = person ? Is it on?", "off @head=person?Is it off?"])
    assert found.groups == {"head": (0, 1)}
    assert found.classes[1] == ClassSpec("off", ("person",), "Is it off?", group="head")


def test_an_at_sign_inside_a_word_is_no_group() -> None:
    assert ontology_from_lines(["mail@sign"]).names == ("mail@sign",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "empty"),
        ("dog,,cat", "empty"),
        ("= person", "class name is empty"),
        ("dog =", "phrases left empty"),
        ("dog = a,,b", "phrase of class 'dog' is empty"),
        ("dog ?", "question left empty"),
        ("dog @ = a", "group left empty"),
        ("dog, cat = animal", "its own line"),
        ("dog = a. b", "ends a phrase"),
        ("dog @one", "holds only 'dog'"),
    ],
)
def test_lines_that_make_no_class(line: str, said: str) -> None:
    with pytest.raises(BadOntology, match=said):
        ontology_from_lines([line])


FULL = """
defaults: {threshold: 0.3, view: context}
classes:
  person:                     # nothing below it
  dog: {}
  no: {phrases: "nay, never"}
  person wearing glasses:
    phrases: [person]
    question: Is this person wearing glasses?
    group: eyewear
    accept: 0.9
    reject: .1
  person not wearing glasses: {phrases: [person], group: eyewear, view: crop, threshold: 0}
"""


def test_yaml() -> None:
    person, dog, no, wearing, bare = ontology_from_yaml(FULL).classes
    assert person == ClassSpec("person", threshold=0.3, view=View.CONTEXT)
    assert dog.name == "dog"
    assert (no.name, no.phrases) == ("no", ("nay", "never"))
    assert (wearing.accept, wearing.reject, wearing.group) == (0.9, 0.1, "eyewear")
    assert (bare.view, bare.threshold) == (View.CROP, 0.0)


def test_masks_are_wanted_of_all_classes_or_of_some() -> None:
    text = "defaults: {mask: true}\nclasses: {dog: {box: mask, view: mask}, cat: {mask: False}}"
    ontology = ontology_from_yaml(text)
    dog, cat = ontology.classes
    assert (dog.mask, dog.box, dog.view) == (True, BoxSource.MASK, View.MASK)
    assert (cat.mask, cat.box) == (False, BoxSource.PROPOSER)
    assert dump(ontology).count("mask: true") == dump(ontology).count("mask: false") == 1
    assert ontology_from_yaml(dump(ontology)) == ontology


@pytest.mark.parametrize(
    ("entries", "question"),
    [
        ("{question: Is it a dog?}", "Is it a dog?"),
        ("{question: Is it a dog?, view: context}", "Is it a dog?"),
        ("{view: crop, question: Is it the man's dog? 🐕 }", "Is it the man's dog? 🐕"),
        ("{phrases: [dog], question: A dog? Or a wolf?, view: crop}", "A dog? Or a wolf?"),
        ('{question: "Is it a dog, or not?", view: crop}', "Is it a dog, or not?"),
        ("{question: 'Is it a dog?', view: crop}", "Is it a dog?"),
        ("{phrases: [dog],\n    question: Is it a dog?,\n    view: crop}", "Is it a dog?"),
    ],
)
def test_a_question_in_braces_needs_no_quotes(entries: str, question: str) -> None:
    text = f"classes:\n  dog: {entries}\n  cat: {{question: Is it a cat?, threshold: 0.4}}"
    dog, cat = ontology_from_yaml(text).classes
    assert (dog.question, cat.question, cat.threshold) == (question, "Is it a cat?", 0.4)


def test_what_is_wrong_in_braces_is_still_told_at_its_line() -> None:
    with pytest.raises(BadOntology, match="no valid YAML at line 3"):
        ontology_from_yaml("classes:\n  a: {question: Is it?}\n  b: {question: [Is it?}")


def test_the_ontology_of_the_readme_is_read() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(classes:.*?)```", readme, re.DOTALL)
    questions = [spec.question for spec in ontology_from_yaml(shown).classes]
    assert "Is this person not wearing glasses?" in questions


@pytest.mark.parametrize("text", ["- dog\n- cat = kitten ? Is it?", "classes: [dog, cat = kitten]"])
def test_yaml_lists_hold_one_line_forms(text: str) -> None:
    assert ontology_from_yaml(text).names == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected 'classes:'"),
        ("dog", "expected 'classes:'"),
        ("dog:\ncat:", "expected 'classes:'"),
        ("classes:", "no class"),
        ("classes: {}", "no class"),
        ("classes: dog", "expected names"),
        ("classes: {dog: cat}", "class 'dog': expected phrases"),
        ("classes: {dog: {phrase: x}}", "class 'dog': unknown entry 'phrase'; did you mean 'phr"),
        ("classes: {dog: {zzz: x}}", "allowed are phrases, question"),
        ("defaults: {group: a}\nclasses: [dog]", "defaults: unknown entry 'group'"),
        ("defaults: 3\nclasses: [dog]", "defaults: expected"),
        ("clases: [dog]", "expected 'classes:'"),
        ("classes: [dog]\nclass: 1", "the file: unknown entry 'class'"),
        ("classes: {dog: {threshold: high}}", "class 'dog': expected threshold as a number"),
        ("classes: {dog: {threshold: 7}}", "class 'dog': expected threshold between"),
        ("classes: {dog: {view: side}}", "class 'dog': expected view as one of crop"),
        ("classes: {dog: {mask: maybe}}", "class 'dog': expected mask as one of true, false"),
        ("classes: {dog: {box: both}}", "class 'dog': expected box as one of proposer, mask"),
        ("classes: {dog: {box: mask, mask: false}}", "box mask needs masks, and mask is false"),
        ("classes: {dog: {phrases: {a: b}}}", "class 'dog': expected phrases as a list"),
        ("classes: {dog: {question: [a]}}", "class 'dog': expected one value for question"),
        ("classes: {dog: , dog: }", "'dog' is given twice"),
        ("classes: {dog: {view: crop, view: image}}", "'view' is given twice"),
        ("classes: {[a, b]: }", "expected a name"),
        ("classes: [{dog: cat}]", "expected a class as"),
        ("classes:\n  dog: {phrases: [a\n", "no valid YAML at line"),
        ("a: \x00", "no valid YAML"),
        ("a: &x 1\nb: *x", "aliases"),
        ("[" * 5000, "nested too deep"),
        ("- dog\n---\n- cat", "no valid YAML"),
        ("x" * (1 << 20) + "x", "longer than"),
        ("- !!python/object/apply:os.system [exit]", "tags"),
    ],
)
def test_yaml_that_is_no_ontology(text: str, said: str) -> None:
    with pytest.raises(BadOntology, match=f"(?s)^my file: .*{said}"):
        ontology_from_yaml(text, "my file")


@pytest.mark.parametrize("nothing", ["null", "~", "", "{}"])
def test_a_class_may_have_no_entries(nothing: str) -> None:
    assert ontology_from_yaml(f"classes:\n  dog: {nothing}\n").classes == (ClassSpec("dog"),)


def test_null_is_a_name_where_names_stand_and_where_it_is_quoted() -> None:
    text = "classes: {null: {question: 'null', group: null}, dog: }"
    null, dog = ontology_from_yaml(text).classes
    assert (null.name, null.question, null.group) == ("null", "null", "")
    assert dog == ClassSpec("dog")


@pytest.mark.parametrize(
    "text",
    [
        "- {" + "a: b ? c, " * 3_000,
        "[ " + "?" * 100_000,
        "{ " + ", ?" * 40_000,
        "- x" + " @" * 30_000 + "?",
        "- x" + " " * 100_000 + "=",
    ],
    ids=["questions", "marks", "commas", "groups", "spaces"],
)
def test_a_long_text_takes_seconds_and_not_hours(text: str) -> None:
    """Each took time by the square of its length, or more."""
    began = time.thread_time()
    with pytest.raises(BadOntology) as refused:
        ontology_from_yaml(text)
    assert time.thread_time() - began < 10 and len(str(refused.value)) < 500


def test_a_billion_laughs_are_refused_at_once() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}]\n" for i in range(9)
    )
    with pytest.raises(BadOntology, match="aliases"):
        ontology_from_yaml(bomb)


@given(st.text(max_size=200))
def test_any_text_is_an_ontology_or_refused(text: str) -> None:
    for read in (ontology_from_yaml, lambda line: ontology_from_lines([line])):
        try:
            assert isinstance(read(text), Ontology)
        except SecondlookError as refused:
            assert isinstance(refused, BadOntology)


WORDS = (
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20)
    .map(str.strip)
    .filter(bool)
)
PHRASE = WORDS.map(lambda text: text.replace(".", "").replace("?", "")).filter(str.strip)
SHARE = st.floats(0, 1)


@st.composite
def specs(draw: st.DrawFn) -> ClassSpec:
    phrases = draw(st.lists(PHRASE.map(str.strip), min_size=1, max_size=3))
    reject, accept = sorted([draw(SHARE), draw(SHARE)])
    name = draw(WORDS)
    return ClassSpec(
        name[:MAX_NAME],
        tuple(phrases),
        draw(st.one_of(st.just(default_question(name)), WORDS)),
        draw(st.sampled_from(View)),
        threshold=draw(SHARE),
        accept=accept,
        reject=reject,
        presence_question=draw(st.just("") | WORDS),
    )


@given(st.lists(specs(), min_size=1, max_size=4, unique_by=lambda spec: spec.name.casefold()))
def test_what_is_dumped_reads_back(classes: list[ClassSpec]) -> None:
    ontology = Ontology(tuple(classes))
    assert ontology_from_yaml(dump(ontology)) == ontology


def test_groups_read_back() -> None:
    ontology = ontology_from_yaml(FULL)
    assert ontology_from_yaml(dump(ontology)) == ontology


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "ontology.yaml"
    path.write_text("\ufeff" + FULL, encoding="utf-8")
    assert len(load_ontology(path).classes) == 5
    with pytest.raises(NotFound, match=r"absent\.yaml"):
        load_ontology(tmp_path / "absent.yaml")
    with pytest.raises(BadOntology, match="cannot be read"):
        load_ontology(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadOntology, match="UTF-8"):
        load_ontology(path)
    path.write_text("classes: {dog: {group: pets}}")
    with pytest.raises(BadOntology, match=r"ontology\.yaml: contrast group 'pets'"):
        load_ontology(path)
