"""Models that know certain words only: a wrong one is told before an image is sent.

Both stages may have an optional part for it, ``check_phrases`` and ``check_questions``. Where a
model knows a fixed list of classes, ``Vocabulary`` says which of them a phrase means: the one of
the same words, letters in any case, underscores, hyphens and spaces alike, singular or plural.
Nothing is guessed beyond that: "man" is no "woman", and "dog" no "hot dog".
"""

import difflib
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from secondlook_client.errors import BadOntology
from secondlook_client.ontology import Ontology

SHOWN_NAMES = 12
"""Names in a message, of a list that may be long."""
_NAMELESS = ("", "n/a", "background", "no object")
"""What a column is called that stands for no class."""
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("people", "person"), ("men", "man"))
"""Endings of a plural, and what its singular ends with."""
_SINGULARS = tuple((singular, plural) for plural, singular in _PLURALS)
_SHORTEST = 2
"""Letters of a word in the other number."""


@runtime_checkable
class ChecksPhrases(Protocol):
    """Optional part of a ``Proposer`` that does not take any words."""

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """Raises ``BadOntology`` for a phrase that it cannot find, naming what it can."""
        ...


@runtime_checkable
class ChecksQuestions(Protocol):
    """Optional part of a ``Verifier`` that cannot answer any question."""

    def check_questions(self, questions: Sequence[str]) -> None:
        """Raises ``BadOntology`` for a question that it cannot answer, naming what it can."""
        ...


def check_words(proposer: object, verifier: object, ontology: Ontology) -> None:
    """Ask both models whether they know what an ontology wants. Raises ``BadOntology``."""
    if isinstance(proposer, ChecksPhrases):
        proposer.check_phrases(ontology.phrases)
    if isinstance(verifier, ChecksQuestions):
        verifier.check_questions(list(dict.fromkeys(s.question for s in ontology.classes)))


class Vocabulary:
    """The columns of a model's scores by the names of their classes."""

    def __init__(self, names: Sequence[str], owner: str) -> None:
        """``names`` are in the order of the columns; ``owner`` is what messages call the model."""
        self.names = tuple(names)
        self._owner = owner
        self._columns: dict[str, int] = {}
        for column, name in enumerate(self.names):
            if _words(name) not in _NAMELESS:
                self._columns.setdefault(_words(name), column)

    def find(self, phrase: str) -> int | None:
        """The column of the class that ``phrase`` means; None when there is none."""
        word = _words(phrase)
        spelled = [word, *_with_ending(word, _PLURALS), *_with_ending(word, _SINGULARS)]
        return next((self._columns[one] for one in spelled if one in self._columns), None)

    def columns(self, phrases: Sequence[str]) -> list[int]:
        """The column of each phrase. Raises ``BadOntology``, which names what is near."""
        found = [self.find(phrase) for phrase in phrases]
        unknown = [phrase for phrase, column in zip(phrases, found, strict=True) if column is None]
        if unknown:
            raise BadOntology(self._refusal(unknown))
        return [column for column in found if column is not None]

    def nearest(self, phrase: str, count: int = 3) -> list[str]:
        """Names that are spelled much like ``phrase``, the nearest first."""
        near = difflib.get_close_matches(_words(phrase), self._columns, n=count, cutoff=0.7)
        return [self.names[self._columns[word]] for word in near]

    def _refusal(self, unknown: Sequence[str]) -> str:
        shown = unknown[:SHOWN_NAMES]
        words = ", ".join(f"'{phrase:.60}'" for phrase in shown)
        near = list(dict.fromkeys(name for phrase in shown for name in self.nearest(phrase)))
        known = [self.names[column] for column in self._columns.values()]
        listed = ", ".join(known[:SHOWN_NAMES]) + (", …" if len(known) > SHOWN_NAMES else "")
        return (
            f"{self._owner} does not know {words}"
            + (f" (did you mean {', '.join(near)}?)" if near else "")
            + f"; of its {len(known)} classes give one as the phrase, such as "
            f'-c "my class = {known[0]}". It knows {listed}'
        )


def _words(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _with_ending(word: str, endings: Sequence[tuple[str, str]]) -> list[str]:
    """The word with each ending that it has replaced by the other one of the pair."""
    return [
        word.removesuffix(ending) + other
        for ending, other in endings
        if word.endswith(ending) and len(word) - len(ending) + len(other) >= _SHORTEST
    ]
