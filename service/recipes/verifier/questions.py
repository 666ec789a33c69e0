"""Closed questions about one view, with their answers from truth and many ways to ask each.

What a question is about and how it is worded are kept apart: the figures are told by what
(``Question.about``), and the wording used everywhere else is the first one given here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from secondlook.demo.world import ATTRIBUTES, COLOURS, NOUNS
from secondlook.models.yes_no import closed_question
from secondlook_client.values import View

COLOURED = ("car", "ball", "helmet")
WORN = {"glasses": "glasses", "helmet": "a helmet", "hat": "a hat", "mask": "a mask"}
"""Trait of a person, and the words for wearing it."""
DECOYS = ("cat", "horse", "bird", "bus", "bicycle", "cow", "chair", "umbrella", "elephant", "boat")
"""Nouns that the world does not hold: a verifier has to say no to them."""

_WEIGHTS = {"eyewear": 4.0, "helmet": 3.0, "hat": 1.0, "mask": 0.5, "colour": 1.5, "noun": 1.5}
_OWN = frozenset(attribute.question for attribute in ATTRIBUTES.values())
_OWN_WEIGHT = 4.0
"""How many times as often a class is asked about in its own words as in any others."""
_DECOY_WEIGHT = 0.3
_PRESENCE = (
    "Is there {a} in this picture?",
    "Is there {a} in the picture?",
    "Does this picture show {a}?",
)
"""The words that the shipped weights were trained on."""


@dataclass(frozen=True)
class Facts:
    """What is true of one view.

    Attributes:
        view: how the box is shown.
        noun: of the thing that the box holds; "" for a box that holds nothing, and for IMAGE.
        colour: of that thing, or "".
        traits: of that thing.
        present: for IMAGE, the nouns and attribute classes that the image holds.
    """

    view: View
    noun: str = ""
    colour: str = ""
    traits: frozenset[str] = frozenset()
    present: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Question:
    """One wording of a question, what it is about, and its answer."""

    text: str
    about: str
    answer: bool


def with_article(words: str) -> str:
    """ "a dog", "an umbrella"; "glasses" take none."""
    if words.endswith("glasses"):
        return words
    return f"an {words}" if words[:1] in "aeiou" else f"a {words}"


def questions(facts: Facts) -> tuple[Question, ...]:
    """Every question that can be asked of a view, in every wording, with its answer."""
    asked = _of_image(facts) if facts.view is View.IMAGE else _of_box(facts)
    return tuple(asked)


def canonical(facts: Facts) -> dict[str, Question]:
    """One wording of every question, by what it is about: the first that is given here."""
    chosen: dict[str, Question] = {}
    for question in questions(facts):
        chosen.setdefault(question.about, question)
    return chosen


def _of_box(facts: Facts) -> Iterator[Question]:
    for noun in (*NOUNS, *DECOYS):
        yield from _noun(noun, facts.noun == noun)
    is_person = facts.noun == "person"
    for trait, words in WORN.items():
        yield from _wearing(trait, words, is_person, trait in facts.traits)
    yield from _on_head(is_person and "glasses on head" in facts.traits)
    for noun in COLOURED:
        for colour in COLOURS:
            yield from _coloured(noun, colour, facts.noun == noun and facts.colour == colour)


def _noun(noun: str, answer: bool) -> Iterator[Question]:
    forms = ["Is this {a}?", "Is it {a}?", "Does this show {a}?", "Does the box hold {a}?"]
    if noun == "glasses":
        forms = ["Are these glasses?", "Is this a pair of glasses?", "Is this a glasses?", *forms]
    for form in forms:
        yield Question(form.format(a=with_article(noun)), noun, answer)


def _wearing(trait: str, words: str, is_person: bool, wears: bool) -> Iterator[Question]:
    yes, no = is_person and wears, is_person and not wears
    for form in (
        "Is this person wearing {w}?",
        "Is this a person wearing {w}?",
        "Does this person wear {w}?",
    ):
        yield Question(form.format(w=words), f"wearing {trait}", yes)
    for form in (
        "Is this person not wearing {w}?",
        "Is this a person not wearing {w}?",
        "Is this a person without {w}?",
        "Is this person without {w}?",
    ):
        yield Question(form.format(w=words), f"not wearing {trait}", no)


def _on_head(answer: bool) -> Iterator[Question]:
    for text in (
        "Are the glasses on the head?",
        "Are the glasses pushed up on the head?",
        "Does this person have glasses on the head?",
    ):
        yield Question(text, "glasses on the head", answer)


def _coloured(noun: str, colour: str, answer: bool) -> Iterator[Question]:
    for text in (
        f"Is this {with_article(f'{colour} {noun}')}?",
        f"Is this {noun} {colour}?",
        f"Does this show {with_article(f'{colour} {noun}')}?",
    ):
        yield Question(text, f"colour of {noun}", answer)


def _of_image(facts: Facts) -> Iterator[Question]:
    for name in (*NOUNS, *ATTRIBUTES, *DECOYS):
        for form in _PRESENCE:
            text = form.format(a=with_article(name))
            yield Question(text, "in the picture", name in facts.present)


@dataclass(frozen=True)
class _Choice:
    """Questions of one answer, and how often each is to be chosen."""

    questions: tuple[Question, ...]
    shares: np.ndarray


@lru_cache(maxsize=4096)
def _choices(facts: Facts) -> tuple[_Choice, _Choice]:
    """The questions to be answered yes, and those to be answered no."""
    asked = questions(facts)
    return _weighted(facts, [q for q in asked if q.answer]), _weighted(
        facts, [q for q in asked if not q.answer]
    )


def _weighted(facts: Facts, asked: list[Question]) -> _Choice:
    """Subjects share by weight, whatever the number of their wordings."""
    kinds = [_kind(facts, question) for question in asked]
    wordings = [_OWN_WEIGHT if question.text in _OWN else 1.0 for question in asked]
    shared: dict[tuple[str, float], float] = defaultdict(float)
    for kind, wording in zip(kinds, wordings, strict=True):
        shared[kind] += wording
    weight = np.array(
        [kind[1] * own / shared[kind] for kind, own in zip(kinds, wordings, strict=True)]
    )
    return _Choice(tuple(asked), weight / weight.sum() if len(asked) else weight)


def _kind(facts: Facts, question: Question) -> tuple[str, float]:
    about = question.about
    if about in DECOYS:
        return "decoy", _DECOY_WEIGHT
    if "glasses" in about and about != "glasses":
        # Of things that are no persons these are easy, and would drown their own questions.
        own = 1.0 if facts.noun == "person" else 0.2
        return about, _WEIGHTS["eyewear"] * own * (2.0 if about == "wearing glasses" else 1.0)
    if about.startswith("colour"):
        # Another colour of the same thing is the mistake that is made; it has to be seen often.
        own = about == f"colour of {facts.noun}"
        return about, _WEIGHTS["colour"] * (8.0 if own else 0.2)
    if about in NOUNS:
        return f"noun {question.answer}", _WEIGHTS["noun"] * (1.0 if question.answer else 2.0)
    weight = next((w for k, w in _WEIGHTS.items() if about.endswith(k)), 1.0)
    # What is worn is rare, and what is not worn is told by other questions as well.
    return about, weight * (4.0 if question.answer and about.startswith("wearing") else 1.0)


def draw(rng: np.random.Generator, facts: Facts, count: int) -> list[Question]:
    """``count`` questions about a view, half of them to be answered yes where that is possible."""
    yes, no = _choices(facts)
    wanted = min(count // 2, len(yes.questions) * 2)
    drawn = []
    for choice, number in ((yes, wanted), (no, count - wanted)):
        rows = rng.choice(len(choice.questions), number, p=choice.shares) if number else ()
        drawn += [choice.questions[row] for row in rows]
    return drawn


def prompt(question: str, *, bare: bool = False) -> str:
    """The words that the model is asked: ``bare`` leaves out the request for one word."""
    return question if bare else closed_question(question)
