"""Yes or no, from a model's output: the probabilities of the first token, or only its text.

P(yes) is the probability of every spelling of "yes" against every spelling of "no" as the first
token of the answer, as in VQAScore (arXiv 2404.01291) and the evaluations of Moondream.

Neither counts when it is no answer to a closed question: "No image was provided" begins with "No"
and would reject every box. ``spoken_answer`` has the grammar; what it does not know is an
abstention, which leaves a box unsure.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from secondlook_client.errors import BadSetting
from secondlook_client.values import Answer

MIN_ANSWER_MASS = 0.5
"""A model that gives "yes" and "no" together less than this more likely says something else, so it
is not answering the question: one that follows it gives them above 0.9, and one that starts to
think, or to describe, nearly 0."""

TEXT_YES_PROBABILITY = 0.9
"""P(yes) of an answer that is only the text "yes". It shows no more than that P(yes) is above one
half, so it passes the usual thresholds (0.6) and not one that asks for near-certainty: there the
box is unsure."""

_SPACE_MARKS = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t"})
"""How sentencepiece ("▁") and byte-level vocabularies ("Ġ", "Ċ", "ĉ") write white space."""

_CHAT_MARK = re.compile(r"\s*<[^<>\s]*>\s*")
"""A token that structures a chat and is no word of the answer, such as "<|channel|>"."""
_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)

_MARKS = str.maketrans(
    {"\u2019": "'", **dict.fromkeys('*_`#>"\u201c\u201d\u201e\u00ab\u00bb', " ")}
)
"""Emphasis and quotation marks say nothing; typographic apostrophes become plain ones."""

_ANSWER = re.compile(
    r"""\W*
    (?:(?:the|my|final|short)\s+){0,2}(?:answer(?:\s+is\b|\b)\W*|a\s*:\s*)?
    (?P<word>yes|no)
    (?P<rest>
        \s*$                                  # nothing follows
      | \s*(?:[,;:!)\]}(<\u3002\uff0c\uff01]|'(?!\w)|\.(?!\s*\d)).*  # punctuation, but not "No. 5"
      | \s*[-\u2013\u2014](?!\w).*                # a dash, but "no-one" is another word
      | \s*\n.*
      | \s+(?:it|it's|there|there's|this|that|that's|these|they|he|she|the|a|an|indeed|definitely
             |certainly|absolutely|because)\b.*     # "No the object is a dog", not "No image"
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""An answer: the word itself, after nothing or "the answer is", before nothing, punctuation, or a
word that begins a clause of its own. Whatever else follows makes the word part of another sentence:
"No image", "No idea", "Yes and no", "yes/no"."""

_TAKEN_BACK = re.compile(
    r"""\b(?:
        but|however|though|although|maybe|perhaps|possibly|might|may\s+be|could\s+be
      | sorry|unsure|unclear|uncertain|unknown|unable|impossible|cannot|can't|can\s*not|i\s+can
      | not\s+(?:sure|certain|clear|possible|enough|provided|given)
      | (?:hard|difficult|way|enough)\s+to|depends
      | (?:don't|do\s+not)\s+(?:know|have)|i'm|i\s+am|as\s+an\s+ai
      | no\s+(?:image|picture|photo|way|idea|information|context|answer)s?
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words by which a sentence that began with an answer takes it back: "No, but I can't see it"."""

_OPPOSITE = {
    "yes": re.compile(r"\bno\b", re.IGNORECASE),
    "no": re.compile(r"\byes\b", re.IGNORECASE),
}

MAX_READ = 4000
"""Characters of an answer that are read."""
SHOWN = 80
"""Characters of an answer that are kept and shown."""


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


def answer_from_logprobs(top: Iterable[tuple[str, float]], raw: str, text: str = "") -> Answer:
    """The answer from the likeliest first tokens, as (text, natural log of its probability).

    A side that is not among them counts as 0: it is less likely than each one listed. ``text`` is
    the answer that these tokens begin, as far as it is known: when that is no answer ("No" of "No
    image was provided"), neither is its first token.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in top:
        word = spelling(token)
        if word in mass:
            mass[word] += math.exp(min(logprob, 0.0))
    if text.strip() and spoken_answer(text) is None:
        return Answer(None, raw=text.strip()[:SHOWN])
    return answer_from_probabilities(mass["yes"], mass["no"], raw)


def answer_position(tokens: Sequence[str]) -> int | None:
    """Index of the first token that is more than white space or a mark of the chat, or None.

    Some chat templates leave it to the model to begin its answer with a line break, or with the
    name of a channel ("<|channel|>").
    """
    words = (i for i, t in enumerate(tokens) if spelling(t) and not _CHAT_MARK.fullmatch(t))
    return next(words, None)


def spoken_answer(text: str) -> bool | None:
    """True for a text that answers yes, False for no, None for one that does not answer.

    "Yes, it is." and "The answer is **no**" answer. "It is not", "maybe", "Yes and no", "No idea",
    "No image was provided", "No, but I can't see it", "Yes, there is no dog" do not.
    """
    text = _THOUGHTS.sub("", text[:MAX_READ], count=1)
    found = _ANSWER.match(text.translate(_MARKS).strip())
    if not found:
        return None
    word, rest = found["word"].lower(), found["rest"]
    if _TAKEN_BACK.search(rest) or _OPPOSITE[word].search(rest):
        return None
    return word == "yes"


def answer_from_text(text: str) -> Answer:
    """The answer from text alone (``exact`` False), for backends without probabilities."""
    said, raw = spoken_answer(text), text.strip()[:SHOWN]
    if said is None:
        return Answer(None, raw=raw, exact=False)
    p_yes = TEXT_YES_PROBABILITY if said else 1 - TEXT_YES_PROBABILITY
    return Answer(round(p_yes, 6), raw=raw, exact=False)
