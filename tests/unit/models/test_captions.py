"""Packing phrases into captions: whole, in order, within the limit, with exact spans."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.models.grounding_dino import Caption, SpecialTokens, pack_captions
from secondlook_client.errors import BadOntology

MARKS = SpecialTokens()


def tokenise(phrase: str) -> list[int]:
    """One made-up id for every word, clear of the marks."""
    return [2000 + sum(map(ord, word)) for word in phrase.split()]


words = st.text("abcdefgh", min_size=1, max_size=6)
phrases = st.lists(
    st.lists(words, min_size=1, max_size=9).map(" ".join), min_size=1, max_size=40, unique=True
)


@given(phrases, st.integers(12, 60), st.none() | st.integers(1, 5))
def test_every_phrase_stands_once_and_whole_in_order(
    given_phrases: list[str], max_tokens: int, max_phrases: int | None
) -> None:
    captions = pack_captions(
        given_phrases, tokenise, max_tokens=max_tokens, max_phrases=max_phrases
    )
    assert [i for caption in captions for i in caption.phrases] == list(range(len(given_phrases)))
    for caption in captions:
        assert len(caption.ids) <= max_tokens
        assert max_phrases is None or len(caption.phrases) <= max_phrases
        assert_form(caption, given_phrases)


def assert_form(caption: Caption, given_phrases: list[str]) -> None:
    """[CLS] phrase . phrase . [SEP], with spans that cover exactly the phrases."""
    expected = [MARKS.start]
    for index, (start, stop) in zip(caption.phrases, caption.spans, strict=True):
        ids = tokenise(given_phrases[index])
        assert start == len(expected)
        assert list(caption.ids[start:stop]) == ids
        expected += [*ids, MARKS.stop]
    assert list(caption.ids) == [*expected, MARKS.end]


@given(phrases, st.integers(12, 60))
def test_no_caption_could_have_taken_the_next_phrase(
    given_phrases: list[str], max_tokens: int
) -> None:
    captions = pack_captions(given_phrases, tokenise, max_tokens=max_tokens)
    for caption, following in itertools.pairwise(captions):
        first = tokenise(given_phrases[following.phrases[0]])
        assert len(caption.ids) + len(first) + 1 > max_tokens


def test_one_phrase_to_a_caption() -> None:
    captions = pack_captions(["a dog", "a cat"], tokenise, max_phrases=1)
    assert [caption.spans for caption in captions] == [((1, 3),), ((1, 3),)]


def test_the_longest_phrase_that_fits_is_taken_and_one_more_token_is_refused() -> None:
    assert len(pack_captions(["a " * 253], tokenise)[0].ids) == 256
    with pytest.raises(BadOntology, match="254 tokens, at most 253"):
        pack_captions(["a dog", "a " * 254], tokenise)


def test_a_phrase_without_a_token_is_refused() -> None:
    with pytest.raises(BadOntology, match="no token"):
        pack_captions(["\u200b"], lambda phrase: [])


@pytest.mark.parametrize("mark", [101, 102, 1012, 1029])
def test_a_phrase_that_holds_a_mark_is_refused(mark: int) -> None:
    with pytest.raises(BadOntology, match="ends a phrase"):
        pack_captions(["dog [SEP] cat"], lambda phrase: [2000, mark, 2001])
