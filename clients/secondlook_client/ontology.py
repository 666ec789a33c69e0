"""What a user wants labelled: classes, the phrases that find them, the questions that check them.

A ``ClassSpec`` and an ``Ontology`` are checked when they are made, by client and service alike. The
service also reads them as YAML and as one line a class, with ``core.ontology_yaml``.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from secondlook_client.errors import BadOntology
from secondlook_client.values import BoxSource, View

MAX_CLASSES = 2000
"""LVIS has 1,203."""
MAX_PHRASES = 16
MAX_NAME = 120
MAX_PHRASE = 400
MAX_QUESTION = 500
FORBIDDEN_IN_PHRASE = (".", "?", "\n", "\x00")
"""Grounding DINO reads these as the end of a phrase."""
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: controls, halves of characters, line and paragraph separators."""


@dataclass(frozen=True)
class ClassSpec:
    """One class of the ontology.

    Raises ``BadOntology`` when a name, phrase, question or threshold cannot be used.
    """

    name: str
    phrases: Sequence[str] = ()
    """Given to the proposer; the class's score is the best of them. Default: the name."""
    question: str = ""
    """Closed question for the verifier. Default: "Is this a <name>?"."""
    view: View = View.CROP
    """What the verifier is shown; its name will do."""
    group: str = ""
    """Contrast group: at most one of its classes is accepted for one box."""
    threshold: float = 0.25
    """Proposer score below which the question is not asked, [0, 1]."""
    accept: float = 0.6
    """P(yes) from which the box is accepted, [0, 1]."""
    reject: float = 0.4
    """P(yes) up to which it is rejected, [0, 1]; between the two it is unsure."""
    presence_question: str = ""
    """Closed question about a whole image, asked to verify that it is empty. Default: "Does this
    picture show a <name>?". Classes with the same one share its answer."""
    mask: bool | None = None
    """Whether labels get a mask: None where a segmenter is in use, True always (one is required),
    False never."""
    box: BoxSource = BoxSource.PROPOSER
    """Which box a label has; its name will do."""

    def __post_init__(self) -> None:
        _check_text("class name", self.name, MAX_NAME)
        given: object = self.phrases
        if isinstance(given, str):  # tuple() would make a phrase of every letter
            raise BadOntology(f"class '{self.name}': expected a list of phrases, got one text")
        object.__setattr__(self, "phrases", tuple(self.phrases) or (self.name,))
        object.__setattr__(self, "question", self.question or default_question(self.name))
        self._check_phrases()
        presence = self.presence_question or default_presence_question(self.name)
        object.__setattr__(self, "presence_question", presence)
        for field, text in (("question", self.question), ("presence_question", presence)):
            _check_text(f"{field} of class '{self.name}'", text, MAX_QUESTION)
        self._check_view_and_group()
        self._check_mask()
        for field in ("threshold", "accept", "reject"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise BadOntology(
                    f"class '{self.name}': expected {field} between 0 and 1, got {value!r}"
                )
        if self.reject > self.accept:
            raise BadOntology(
                f"class '{self.name}': reject ({self.reject}) is above accept ({self.accept}), "
                "so one answer would be both; lower reject or raise accept"
            )

    def _check_view_and_group(self) -> None:
        if self.view not in tuple(View):
            raise BadOntology(
                f"class '{self.name}': expected view {', '.join(View)}, got {self.view!r}"
            )
        object.__setattr__(self, "view", View(self.view))
        if self.group:
            _check_text(f"group of class '{self.name}'", self.group, MAX_NAME)
        if self.group.startswith("="):  # marks classes that stand alone, see Ontology.groups
            raise BadOntology(f"group '{self.group}' begins with '='; give it another name")

    def _check_mask(self) -> None:
        if self.mask is not None and not isinstance(self.mask, bool):
            raise BadOntology(
                f"class '{self.name}': expected mask true or false, got {self.mask!r:.60}"
            )
        if self.box not in tuple(BoxSource):
            raise BadOntology(
                f"class '{self.name}': expected box {', '.join(BoxSource)}, got {self.box!r:.60}"
            )
        object.__setattr__(self, "box", BoxSource(self.box))
        if self.mask is False and self.needs_segmenter:
            asked = "view mask" if self.view is View.MASK else "box mask"
            raise BadOntology(
                f"class '{self.name}': {asked} needs masks, and mask is false; leave one of them "
                "out"
            )

    @property
    def needs_segmenter(self) -> bool:
        """Whether the class cannot be labelled without a segmenter."""
        return self.mask is True or self.box is BoxSource.MASK or self.view is View.MASK

    def _check_phrases(self) -> None:
        if len(self.phrases) > MAX_PHRASES:
            raise BadOntology(
                f"class '{self.name}' has {len(self.phrases)} phrases; at most {MAX_PHRASES}"
            )
        for phrase in self.phrases:
            _check_text(f"phrase of class '{self.name}'", phrase, MAX_PHRASE)
            for character in FORBIDDEN_IN_PHRASE:
                if character in phrase:
                    raise BadOntology(
                        f"phrase {phrase!r} of class '{self.name}' contains {character!r}, which "
                        "ends a phrase in the proposer's caption; give a phrase without it "
                        f"(for example: {self.name.split('.')[0].strip()!r} = a phrase)"
                    )


Classes = Sequence[str | ClassSpec]
"""Classes in order; a string is a class with that name."""


@dataclass(frozen=True)
class Ontology:
    """A checked, ordered set of classes; score columns everywhere follow this order.

    Raises ``BadOntology`` when it is empty, too long, names a class twice, or has a contrast
    group of one class or with two identical questions.
    """

    classes: tuple[ClassSpec, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise BadOntology("the ontology has no class; give at least one")
        if len(self.classes) > MAX_CLASSES:
            raise BadOntology(f"{len(self.classes)} classes; at most {MAX_CLASSES}")
        seen: set[str] = set()
        for spec in self.classes:
            if spec.name.casefold() in seen:
                raise BadOntology(f"class '{spec.name}' is given twice; give it one entry")
            seen.add(spec.name.casefold())
        for group, members in self.groups.items():
            self._check_group(group, [self.classes[i] for i in members])

    def _check_group(self, group: str, members: list[ClassSpec]) -> None:
        if not group.startswith("="):
            if len(members) < 2:
                raise BadOntology(
                    f"contrast group '{group}' holds only '{members[0].name}'; "
                    "a contrast needs two classes, or leave the group out"
                )
            if len({spec.question.casefold() for spec in members}) < len(members):
                raise BadOntology(
                    f"two classes of contrast group '{group}' ask the same question, "
                    "so they contradict each other; ask each its own"
                )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names, in order."""
        return tuple(spec.name for spec in self.classes)

    @cached_property
    def phrases(self) -> tuple[str, ...]:
        """Every distinct phrase, in order of first use, lower case with single spaces."""
        return tuple(dict.fromkeys(normal(p) for spec in self.classes for p in spec.phrases))

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Class indices by contrast group; a class without one stands alone under ``=name``."""
        found: dict[str, list[int]] = {}
        for index, spec in enumerate(self.classes):
            found.setdefault(spec.group or f"={spec.name}", []).append(index)
        return {group: tuple(members) for group, members in found.items()}

    @cached_property
    def digest(self) -> str:
        """Hash of the content, 16 hex digits: equal ontologies have equal digests."""
        content = json.dumps([_told(spec) for spec in self.classes], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def normal(phrase: str) -> str:
    """A phrase as it stands in a caption: lower case, single spaces."""
    return " ".join(phrase.lower().split())


def default_question(name: str) -> str:
    """ "Is this a dog?" for "dog", with the article that the word wants."""
    return f"Is this {with_article(name)}?"


def default_presence_question(name: str) -> str:
    """ "Does this picture show a dog?" for "dog"."""
    return f"Does this picture show {with_article(name)}?"


def with_article(name: str) -> str:
    """ "a dog" for "dog", "an umbrella" for "umbrella"."""
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def spec_fields(spec: ClassSpec) -> dict[str, Any]:
    """A class as plain values; without what only classes with masks have, where it is not given, so
    that versions of before can read the others."""
    told = asdict(spec)
    if spec.mask is None:
        del told["mask"]
    if spec.box is BoxSource.PROPOSER:
        del told["box"]
    return told


def _told(spec: ClassSpec) -> dict[str, Any]:
    """Without the default presence question: ontologies had digests before they had it."""
    told = spec_fields(spec)
    if told["presence_question"] == default_presence_question(spec.name):
        del told["presence_question"]
    return told


def _check_text(what: str, text: str, limit: int) -> None:
    if not isinstance(text, str):
        raise BadOntology(f"the {what} is {text!r}; expected text")
    if not text.strip():
        raise BadOntology(f"the {what} is empty; give it some words")
    if len(text) > limit:
        raise BadOntology(f"the {what} has {len(text)} characters; at most {limit}")
    if not is_one_line(text):
        raise BadOntology(f"the {what} holds a control character or line break; remove it")


def is_one_line(text: str) -> bool:
    """Whether a name has no control character and no line break; joined emoji are fine."""
    # The first test is quick, and enough for most texts.
    return text.isprintable() or not any(unicodedata.category(c) in _UNPRINTABLE for c in text)
