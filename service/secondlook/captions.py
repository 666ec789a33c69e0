"""Phrases packed into the captions that Grounding DINO reads. No torch, no tokenizer of its own.

A caption is ``[CLS] phrase . phrase . [SEP]`` as token ids. It is built from the ids of each
phrase, so the span of every phrase inside it is known exactly. A class is scored from that span;
matching decoded words instead turns "man" into "woman" and "cat dog" into nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secondlook.errors import BadOntology

MAX_TOKENS = 256
"""Tokens of the longest caption that the published checkpoints read, ``[CLS]`` and ``[SEP]``
included."""


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that give a caption its form; the defaults are BERT's.

    Both Grounding DINO classes of transformers compare ids with these very numbers to tell
    phrases apart, so a vocabulary that numbers them otherwise is silently misread by the model.
    """

    start: int = 101
    end: int = 102
    stop: int = 1012
    """Closes a phrase."""
    question: int = 1029
    """Closes a phrase too, as the model reads it; never written by us."""


@dataclass(frozen=True)
class Caption:
    """One caption and where each of its phrases stands."""

    ids: tuple[int, ...]
    phrases: tuple[int, ...]
    """Indices into the phrases that were packed, in order."""
    spans: tuple[tuple[int, int], ...]
    """For each phrase the positions in ``ids`` of its first token and after its last."""


def pack(
    phrases: Sequence[str],
    tokenise: Callable[[str], Sequence[int]],
    *,
    max_tokens: int = MAX_TOKENS,
    max_phrases: int | None = None,
    marks: Marks | None = None,
) -> tuple[Caption, ...]:
    """Pack whole phrases, in order, into as few captions as first-fit in order gives.

    ``tokenise`` gives the ids of one phrase without any mark. ``max_phrases`` (≥ 1) limits how
    many phrases share a caption: a phrase alone is found more often than in company
    (https://github.com/IDEA-Research/GroundingDINO/issues/141), at the price of one pass of the
    model for each caption. Raises ``BadOntology`` for a phrase that does not fit a caption by
    itself, comes to no token, or holds one of the marks.
    """
    marks = marks or Marks()
    captions: list[Caption] = []
    waiting: list[tuple[int, tuple[int, ...]]] = []
    used = 2
    for index, phrase in enumerate(phrases):
        ids = _checked(phrase, tuple(tokenise(phrase)), max_tokens, marks)
        full = max_phrases is not None and len(waiting) >= max_phrases
        if waiting and (full or used + len(ids) + 1 > max_tokens):
            captions.append(_write(waiting, marks))
            waiting, used = [], 2
        waiting.append((index, ids))
        used += len(ids) + 1
    if waiting:
        captions.append(_write(waiting, marks))
    return tuple(captions)


def _checked(phrase: str, ids: tuple[int, ...], max_tokens: int, marks: Marks) -> tuple[int, ...]:
    allowed = max_tokens - 3
    if not ids:
        raise BadOntology(
            f"phrase {phrase!r} comes to no token in this proposer's vocabulary; give it words"
        )
    if len(ids) > allowed:
        raise BadOntology(
            f"phrase '{_short(phrase)}' comes to {len(ids)} tokens, at most {allowed} fit in a "
            "caption of this proposer; shorten it"
        )
    if {marks.start, marks.end, marks.stop, marks.question}.intersection(ids):
        raise BadOntology(
            f"phrase '{_short(phrase)}' holds a mark that ends a phrase in the proposer's caption "
            "(such as '.', '?' or '[SEP]'); leave it out"
        )
    return ids


def _short(phrase: str, limit: int = 60) -> str:
    return phrase if len(phrase) <= limit else f"{phrase[:limit]}…"


def _write(members: list[tuple[int, tuple[int, ...]]], marks: Marks) -> Caption:
    ids = [marks.start]
    spans = []
    for _, phrase in members:
        spans.append((len(ids), len(ids) + len(phrase)))
        ids += [*phrase, marks.stop]
    return Caption((*ids, marks.end), tuple(index for index, _ in members), tuple(spans))
