"""Yes or no, from a model's output: the probabilities of the first token, or only its text.

P(yes) is the probability of every spelling of "yes" against every spelling of "no" as the first
token of the answer, as in VQAScore (arXiv 2404.01291) and the evaluations of Moondream.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from secondlook_client.errors import BadSetting
from secondlook_client.values import Answer

MIN_ANSWER_MASS = 0.1
"""A model that gives "yes" and "no" together less than this is not answering the question: one
that follows it gives them above 0.9, and one that starts to think, or to describe, nearly 0."""

TEXT_YES_PROBABILITY = 0.9
"""P(yes) of an answer that is only the text "yes". It shows no more than that P(yes) is above one
half, so it passes the usual thresholds (0.6) and not one that asks for near-certainty: there the
box is unsure."""

_SPACE_MARKS = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t"})
"""How sentencepiece ("▁") and byte-level vocabularies ("Ġ", "Ċ", "ĉ") write white space."""

_TEXT_ANSWER = re.compile(r"\W*(?:answer\W+)?(yes|no)\b", re.IGNORECASE)
_YES_WORD = re.compile(r"\byes\b", re.IGNORECASE)
_NO_WORD = re.compile(r"\bno\b", re.IGNORECASE)


def closed_question(question: str) -> str:
    """The question as it is put to a model: with the request for one word."""
    return f"{question} Answer yes or no."


@dataclass(frozen=True)
class AnswerTokens:
    """Every token id that spells "yes", and every one that spells "no"."""

    yes: tuple[int, ...]
    no: tuple[int, ...]


def answer_tokens(
    vocabulary: Mapping[str, int], first_pieces: tuple[int, int] | None = None
) -> AnswerTokens:
    """All spellings of yes and no in a tokenizer's vocabulary (token text -> id).

    Upper and lower case, with and without the mark of a leading space. ``first_pieces`` are the
    first ids of "yes" and "no" as tokenized, used when the vocabulary has no whole word (bytes or
    characters). Raises ``BadSetting`` when the two answers cannot be told apart by one token.
    """
    found: dict[str, list[int]] = {"yes": [], "no": []}
    for token, index in vocabulary.items():
        word = spelling(token)
        if word in found:
            found[word].append(index)
    if found["yes"] and found["no"]:
        return AnswerTokens(tuple(sorted(found["yes"])), tuple(sorted(found["no"])))
    if first_pieces is None or first_pieces[0] == first_pieces[1]:
        raise BadSetting(
            "the model's vocabulary has no token by which 'yes' and 'no' can be told apart; "
            "use another checkpoint"
        )
    return AnswerTokens((first_pieces[0],), (first_pieces[1],))


def spelling(token: str) -> str:
    """A token without the marks of white space around it, in lower case."""
    return token.translate(_SPACE_MARKS).strip().lower()


def answer_from_probabilities(
    yes: float, no: float, raw: str, min_mass: float = MIN_ANSWER_MASS
) -> Answer:
    """The answer when ``yes`` and ``no`` are the probabilities of the two, each in [0, 1].

    An abstention (``p_yes`` None) when together they do not reach ``min_mass``. ``raw`` is the
    model's likeliest first token.
    """
    total = yes + no
    if not math.isfinite(total) or total < min_mass or total <= 0:
        return Answer(None, raw=raw)
    return Answer(min(max(yes / total, 0.0), 1.0), raw=raw)


def answer_from_logprobs(top: Iterable[tuple[str, float]], raw: str) -> Answer:
    """The answer from the likeliest first tokens, as (text, natural log of its probability).

    A side that is not among them counts as 0: it is less likely than each one listed.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in top:
        word = spelling(token)
        if word in mass:
            mass[word] += math.exp(min(logprob, 0.0))
    return answer_from_probabilities(mass["yes"], mass["no"], raw)


def answer_position(tokens: Sequence[str]) -> int | None:
    """Index of the first token that is more than white space, or None.

    Some chat templates leave it to the model to begin its answer with a line break.
    """
    return next((i for i, token in enumerate(tokens) if spelling(token)), None)


def answer_from_text(text: str) -> Answer:
    """The answer from text alone (``exact`` False), for backends without probabilities.

    "Yes, it is." is a yes. An answer that does not begin with either word, or holds both, is an
    abstention: "It is not", "maybe", "yes or no", nothing at all.
    """
    text = text.strip()
    raw = text[:80]
    answer = _TEXT_ANSWER.match(text)
    if not answer or (_YES_WORD.search(text) and _NO_WORD.search(text)):
        return Answer(None, raw=raw, exact=False)
    p_yes = TEXT_YES_PROBABILITY if answer[1].lower() == "yes" else 1 - TEXT_YES_PROBABILITY
    return Answer(round(p_yes, 6), raw=raw, exact=False)
