"""Yes and no from tokens, probabilities and words."""

import math

import pytest

from secondlook.models.yes_no import (
    MIN_ANSWER_MASS,
    answer_from_logprobs,
    answer_from_probabilities,
    answer_from_text,
    answer_position,
    answer_tokens,
)
from secondlook_client.errors import BadSetting


def test_every_spelling_is_found_and_nothing_else() -> None:
    vocabulary = {
        "yes": 1, "Yes": 2, "YES": 3, "▁yes": 4, "ĠYes": 5, " yes": 6, "Ċno": 7, "no": 8,
        "ĠNO": 9, "▁No": 10, "not": 11, "yesterday": 12, "know": 13, "##no": 14, "Ġnone": 15,
    }  # fmt: skip
    tokens = answer_tokens(vocabulary)
    assert tokens.yes == (1, 2, 3, 4, 5, 6)
    assert tokens.no == (7, 8, 9, 10)


def test_a_byte_vocabulary_uses_first_pieces() -> None:
    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokens = answer_tokens(letters, (letters["y"], letters["n"]))
    assert (tokens.yes, tokens.no) == ((letters["y"],), (letters["n"],))


def test_answers_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(BadSetting, match="no token by which"):
        answer_tokens({"<byte>": 0}, (0, 0))


def test_probability_is_yes_against_no() -> None:
    answer = answer_from_probabilities(0.6, 0.2, "Yes")
    assert answer.p_yes == pytest.approx(0.75)
    assert answer.exact and answer.raw == "Yes"


@pytest.mark.parametrize(
    "masses", [(0.0, 0.0), (MIN_ANSWER_MASS / 3, MIN_ANSWER_MASS / 3), (math.nan, 0.5)]
)
def test_little_mass_is_an_abstention(masses: tuple[float, float]) -> None:
    answer = answer_from_probabilities(*masses, raw="The")
    assert answer.p_yes is None and answer.raw == "The" and not answer.error


def test_top_tokens_are_summed_over_spellings() -> None:
    top = [("Yes", math.log(0.5)), (" yes", math.log(0.1)), ("No", math.log(0.3)), ("The", -3.0)]
    assert answer_from_logprobs(top, "Yes").p_yes == pytest.approx(0.6 / 0.9)
    assert answer_from_logprobs([("The", -0.1), ("A", -3.0)], "The").p_yes is None


def test_leading_white_space_is_skipped() -> None:
    assert answer_position(["\n", " ", "Yes", "."]) == 2
    assert answer_position(["", "\n"]) is None


@pytest.mark.parametrize(
    "text", ["yes", "Yes, it is.", "**Yes**", "\n YES!", "Answer: yes", "Yes. The dog is red."]
)
def test_a_spoken_yes(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes == pytest.approx(0.9) and not answer.exact


@pytest.mark.parametrize("text", ["no", "No, it is not.", "NO.", "no, a cat"])
def test_a_spoken_no(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes == pytest.approx(0.1) and not answer.exact


@pytest.mark.parametrize(
    "text",
    ["", "maybe", "It is not", "not sure", "nothing", "yesterday", "Yes and no", "yes or no",
     "The answer is unknown", "I see no dog", "Yes, there is no dog"],
)  # fmt: skip
def test_anything_else_is_an_abstention(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes is None and answer.raw == text and not answer.exact
