"""Yes and no from tokens, probabilities and words."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.models.yes_no import (
    MIN_ANSWER_MASS,
    answer_from_logprobs,
    answer_from_probabilities,
    answer_from_text,
    answer_position,
    answer_tokens,
    spoken_answer,
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


YES = [
    "yes", "Yes.", "yes, it is", "Yes, it is.", "**Yes**", "\n YES!", "Answer: yes", "“Yes”",
    "'yes'",
    "The answer is yes", "The answer is: **Yes**.", "My final answer is yes", "A: Yes",
    "Yes. The dog is red.", "yes it is", "Yes - a dog", "Yes\n\nThe image shows a dog",
    "Yes</s>",
    '{"answer": "yes"}', "<answer>yes</answer>", "<think>\n\n</think>\n\nYes",
    "Yes, the person is not wearing glasses", "Yes absolutely",
]  # fmt: skip
NO = [
    "no", "No", "NO.", "No, it is not.", "no, a cat", "No, there is no car.", "no it isn't",
    "No, there",
    "No - the object is a dog", "No — a dog", "No (it is a dog)", "The answer is no.",
    "No the object is a dog", "No there is no dog", "no, 5 dogs", "No, I don’t see a car",
]  # fmt: skip
NEITHER = [
    "", "maybe", "It is not", "not sure", "Not sure", "nothing", "Nothing", "yesterday",
    "Yesterday it was", "None", "Know", "Yes and no", "yes or no", "yes/no", "Yes|No", "Yes, no",
    "The answer is unknown", "I see no dog", "Yes, there is no dog", "Yes?", "I would say yes",
    "No image was provided", "No image", "No, no image was provided", "No (no image was provided)",
    "No way to tell", "No idea", "No information", "No answer", "The answer is no image", "No one",
    "no-one is there", "No cars are visible", "No problem", "No. 5 is on the shirt",
    "No, but I can't see the image", "No, but I", "No, I can", "No, I cannot see the image",
    "Yes, but it is blurry", "Yes, maybe", "No, sorry", "No, I'm not sure", "Yes sir",
    "No, there is not enough to tell", "<think>Yes", "Yes-man",
]  # fmt: skip


@pytest.mark.parametrize("text", YES)
def test_a_spoken_yes(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes == pytest.approx(0.9) and not answer.exact


@pytest.mark.parametrize("text", NO)
def test_a_spoken_no(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes == pytest.approx(0.1) and not answer.exact


@pytest.mark.parametrize("text", NEITHER)
def test_anything_else_is_an_abstention(text: str) -> None:
    answer = answer_from_text(text)
    assert answer.p_yes is None and answer.raw == text and not answer.exact


@given(st.sampled_from(["Yes", "no", "NO"]), st.text(min_size=1, max_size=8).filter(str.isalnum))
def test_a_word_that_only_begins_like_an_answer_is_none(word: str, rest: str) -> None:
    assert spoken_answer(word + rest) is None


@pytest.mark.parametrize(
    "text", [" " * 100_000 + "x", "no" * 50_000, "<think>" * 20_000, "*" * 99_999]
)
def test_long_texts_are_read_at_once(text: str) -> None:
    began = time.perf_counter()
    assert spoken_answer(text) is None
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("text", ["No image was provided", "No idea", "No, but I"])
def test_a_likely_first_token_of_another_sentence_is_no_answer(text: str) -> None:
    top = [("No", math.log(0.98)), ("Yes", math.log(0.01))]
    answer = answer_from_logprobs(top, "No", text)
    assert answer.p_yes is None and answer.raw == text
    assert answer_from_logprobs(top, "No", "No, there is").p_yes == pytest.approx(0.01 / 0.99)
    assert answer_from_logprobs(top, "No").p_yes == pytest.approx(0.01 / 0.99)


def test_yes_and_no_must_lead() -> None:
    behind = [("The", math.log(0.6)), ("No", math.log(0.3)), ("Yes", math.log(0.05))]
    assert answer_from_logprobs(behind, "The").p_yes is None
    assert answer_from_probabilities(0.3, 0.05, "The").p_yes is None
    assert answer_from_probabilities(0.3, 0.3, "Yes").p_yes == pytest.approx(0.5)


def test_marks_of_the_chat_are_skipped() -> None:
    assert answer_position(["<|channel|>", "\n", "Yes"]) == 2
    assert answer_position(["<think>", "Let", "Yes"]) == 1
