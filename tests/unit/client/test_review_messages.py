"""Reviews to messages and back, and what of an import travels in one message."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook_client import wire
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask
from secondlook_client.reviews import ADDED_AT_ONCE, ADDED_BYTES, _import_groups, _messages
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.v1 import reviews_pb2 as pb
from secondlook_client.values import (
    NewReview,
    Outcome,
    Review,
    ReviewAnswer,
    ReviewItem,
    ReviewOrder,
    ReviewQueue,
    WrongReason,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip)
SIDE = st.floats(0, 4096, width=32)
BOXES = st.tuples(SIDE, SIDE, SIDE, SIDE)
NUMBERS = st.integers(1, 2**63 - 1)
REVIEWS = st.builds(
    Review,
    image=st.just("a" * 64),
    class_name=NAMES,
    box=st.none() | BOXES,
    answer=st.sampled_from(ReviewAnswer),
    reason=st.none() | st.sampled_from(WrongReason),
    new_class=st.just("") | NAMES,
    new_box=st.none() | BOXES,
    person=NAMES,
    note=st.just("") | NAMES,
    mask=st.none() | st.just(Mask.from_runs(5, 4, [3, 9, 8])),
    id=NUMBERS,
    created_at=st.floats(0, 2e9),
    undone_by=st.none() | NUMBERS,
    undoes=st.none() | NUMBERS,
)
VALUES = st.lists(st.floats(0, 1), max_size=4).map(tuple)
UNCERTAINTIES = st.builds(
    LabelUncertainty,
    method=st.sampled_from(UncertaintyMethod).map(str) | NAMES,
    value=st.floats(0, 1),
    confidence=st.floats(0, 1),
    reason=NAMES,
    figures=st.dictionaries(NAMES, VALUES, max_size=2),
)
ITEMS = st.builds(
    ReviewItem,
    id=NUMBERS,
    queue=NAMES,
    position=NUMBERS,
    label_id=st.just("81.3"),
    image=st.just("a" * 64),
    image_name=NAMES,
    width=st.integers(0, 9999),
    height=st.integers(0, 9999),
    class_name=NAMES,
    box=BOXES,
    probability=st.floats(0, 1),
    outcome=st.sampled_from(Outcome),
    stratum=NAMES,
    inclusion=st.floats(0, 1),
    leased_to=NAMES,
    lease_until=st.floats(0, 2e9),
    review_id=st.none() | NUMBERS,
    uncertainties=st.lists(UNCERTAINTIES, max_size=2).map(tuple),
)
RIGHT = Review("a" * 64, "dog", (1, 2, 3, 4), ReviewAnswer.RIGHT, person="ada", created_at=5.0)


@given(REVIEWS)
def test_a_review_comes_back_as_it_was(review: Review) -> None:
    sent = wire.review_message(review).SerializeToString()
    assert wire.review(pb.Review.FromString(sent)) == review


@given(ITEMS)
def test_a_box_in_a_queue_comes_back_as_it_was(item: ReviewItem) -> None:
    sent = wire.review_item_message(item).SerializeToString()
    assert wire.review_item(pb.ReviewItem.FromString(sent)) == item


def test_a_queue_comes_back_with_an_order_of_somebody_else() -> None:
    queue = ReviewQueue("q", "street", "guarantee", 9, 2, 3, 5.5)
    message = wire.write(pb.ReviewQueue, queue)
    assert wire.review_queue(message) == queue and queue.waiting == 4


def test_both_sides_have_the_same_words() -> None:
    for kind, numbers in (
        (ReviewAnswer, wire.REVIEW_ANSWERS),
        (WrongReason, wire.WRONG_REASONS),
        (ReviewOrder, wire.REVIEW_ORDERS),
    ):
        assert set(numbers.number) == set(kind)


def test_a_text_that_is_no_text_is_sent_all_the_same() -> None:
    strange = replace(RIGHT, class_name="d\ud800g", person="a\udcffa", note="\ud800")
    message = wire.new_review_message(strange, 7.0)
    assert (message.class_name, message.person, message.note) == ("d?g", "a?a", "?")


@pytest.mark.parametrize(
    ("answer", "more", "words"),
    [
        (ReviewAnswer.MISSING, {}, "no answer about a box"),
        (ReviewAnswer.COMPLETE, {}, "no answer about a box"),
        (ReviewAnswer.RIGHT, {"new_class": "cat"}, "belong to a wrong box"),
        (ReviewAnswer.RIGHT, {"person": ""}, "1 to 120 characters"),
        (
            ReviewAnswer.WRONG,
            {"new_class": "cat", "reason": WrongReason.NOTHING_THERE},
            "has no new class",
        ),
    ],
)
def test_an_answer_that_contradicts_itself_is_not_sent(answer, more, words) -> None:
    said = NewReview(**{"person": "ada", **more}, image="a" * 64, class_name="dog",
                     box=(1, 2, 3, 4), answer=answer)  # fmt: skip
    with pytest.raises(InvalidInput, match=words):
        wire.answer_request(7, said)


def test_a_label_id_finds_its_judgement_whatever_it_is() -> None:
    item = wire.review_item(pb.ReviewItem(label_id="8.99999999999", judgements=[{}]))
    assert item.judgement is None
    assert replace(item, label_id="8").judgement is None
    assert replace(item, label_id="8.²").judgement is None
    assert replace(item, label_id="8.0").judgement == item.judgements[0]


def imported(history: list[Review], size: int = ADDED_AT_ONCE) -> list[list[pb.Review]]:
    """What travels in one message each."""
    groups = (map(wire.review_message, group) for group in _import_groups(history))
    return [*_messages(groups, size)]


@given(st.lists(st.booleans(), max_size=40), st.integers(2, 9))
def test_what_was_taken_back_travels_with_what_did_it(undone, size) -> None:
    """In one message each, and in the order of the others."""
    history = [
        replace(RIGHT, id=number, undone_by=1000 + number if taken_back else None)
        for number, taken_back in enumerate(undone, start=1)
    ]
    history += [
        replace(one, id=1000 + one.id, undoes=one.id, undone_by=None)
        for one in reversed(history)
        if one.undone_by
    ]
    messages = [*imported(history, size)]
    assert all(0 < len(some) <= size for some in messages)
    assert sorted(one.id for some in messages for one in some) == sorted(r.id for r in history)
    kept = [one.id for some in messages for one in some if not (one.undoes or one.undone_by)]
    assert kept == sorted(kept)
    for some in messages:
        ids = [one.id for one in some]
        for place, one in enumerate(some):
            assert not one.HasField("undoes") or one.undoes in ids[:place]


def test_what_lacks_the_other_half_is_sent_alone() -> None:
    alone = [replace(RIGHT, id=1, undone_by=2), replace(RIGHT, id=4, undoes=3)]
    assert [one.id for some in imported(alone) for one in some] == [4, 1]
    many = [replace(RIGHT, id=n, undone_by=9999) for n in range(1, 2 * ADDED_AT_ONCE)]
    assert [len(some) for some in imported(many)] == [ADDED_AT_ONCE, ADDED_AT_ONCE - 1]


def test_a_message_is_no_larger_than_the_server_takes() -> None:
    large = Mask(1000, 1000, "0" * 1_000_000)
    many = [[wire.review_message(replace(RIGHT, mask=large))]] * 9
    sizes = [sum(one.ByteSize() for one in some) for some in _messages(many)]
    assert len(sizes) == 3 and max(sizes) <= ADDED_BYTES
    alone = [[wire.review_message(replace(RIGHT, mask=large))] * 5]
    assert [len(some) for some in _messages(alone)] == [5], "what belongs together stays so"


@pytest.mark.parametrize(
    ("answer", "more", "words"),
    [
        (ReviewAnswer.UNSURE, {}, "a mask belongs to a right box"),
        (ReviewAnswer.WRONG, {"reason": WrongReason.DUPLICATE}, r"'wrong' \(duplicate\)"),
        (ReviewAnswer.RIGHT, {"mask": Mask.from_runs(5, 4, [20])}, "the mask is empty"),
        (ReviewAnswer.MISSING, {"mask": Mask(5, 5, "0")}, "does not fill its image"),
    ],
)
def test_a_mask_that_belongs_to_nothing_is_not_sent(answer, more, words) -> None:
    given = {"mask": Mask.from_runs(5, 4, [3, 9, 8]), "person": "ada", **more}
    said = NewReview(image="a" * 64, class_name="dog", box=(1, 2, 3, 4), answer=answer, **given)
    with pytest.raises(InvalidInput, match=words):
        wire.new_review_message(said, 1.0)
