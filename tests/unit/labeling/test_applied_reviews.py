"""What people said, applied to judgements: newest wins, and taking back restores."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import judged

from secondlook.core.boxes import Xyxy
from secondlook.labeling.applied_reviews import (
    ADDED,
    apply_reviews,
    find_contradictions,
    is_complete,
    review_words,
    reviewed_boxes,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import (
    WHOLE_IMAGE,
    Judgement,
    Outcome,
    Review,
    ReviewAnswer,
    WrongReason,
)

CLASSES = ("dog", "cat")
A, LOOSE, FAR = (10, 10, 50, 50), (10, 10, 50, 62), (100, 100, 140, 140)
"""``A`` and ``LOOSE`` have an IoU of 0.77."""


def said(
    answer: str, box: tuple[float, ...] | None = A, class_name: str = "dog", **more: object
) -> Review:
    values = {"person": "Ann", **more}
    return Review("0" * 64, class_name, box, ReviewAnswer(answer), **values)  # type: ignore[arg-type]


def history(*reviews: Review) -> list[Review]:
    """Numbered, oldest first."""
    return [replace(review, id=number) for number, review in enumerate(reviews, start=1)]


def undone(reviews: Sequence[Review], number: int) -> list[Review]:
    """The same with one taken back."""
    back = replace(reviews[number], id=99, undoes=reviews[number].id, person="Zoe")
    return [
        *(replace(r, undone_by=99) if at == number else r for at, r in enumerate(reviews)),
        back,
    ]


def outcomes(found: Sequence[Judgement]) -> list[tuple[str, tuple[float, ...], str, float]]:
    return [(j.class_name, j.box, j.outcome.value, j.probability) for j in found]


def test_each_answer_has_its_effect() -> None:
    run = [judged("dog", A), judged("cat", FAR)]
    for answer, outcome, probability in (
        ("right", Outcome.ACCEPT, 1.0),
        ("wrong", Outcome.REJECT, 0.0),
        ("unsure", Outcome.UNSURE, 0.97),
    ):
        dog, cat = apply_reviews(run, [said(answer, LOOSE)], CLASSES)
        assert (dog.outcome, dog.probability, dog.box) == (outcome, probability, A)
        assert cat is run[1]  # nobody spoke of it


def test_a_new_outline_is_a_label_of_its_own_though_it_overlaps_the_old_one() -> None:
    wrong = said("wrong", reason=WrongReason.OUTLINE, new_box=LOOSE)
    found = apply_reviews([judged("dog", A)], [wrong], CLASSES)
    assert outcomes(found) == [("dog", A, "reject", 0.0), ("dog", LOOSE, "accept", 1.0)]
    assert found[1].row == ADDED
    assert "Ann drew this outline" in found[1].reason


def test_a_new_class_is_given_to_the_box_that_has_it_already() -> None:
    run = [judged("dog", A), judged("cat", A, Outcome.REJECT)]
    wrong = said("wrong", reason=WrongReason.CLASS, new_class="cat")
    found = apply_reviews(run, [wrong], CLASSES)
    assert outcomes(found) == [("dog", A, "reject", 0.0), ("cat", A, "accept", 1.0)]
    assert outcomes(apply_reviews(run[:1], [wrong], CLASSES)) == outcomes(found)
    assert outcomes(apply_reviews(run[:1], [wrong], ("dog",))) == [("dog", A, "reject", 0.0)]
    # A run that has the new class alone gets the object too.
    assert outcomes(apply_reviews([], [wrong], ("cat",))) == [("cat", A, "accept", 1.0)]


def test_a_missing_object_is_added_beside_a_judged_box_that_overlaps_it() -> None:
    found = apply_reviews([judged("dog", A)], [said("missing", LOOSE)], CLASSES)
    assert [j.box for j in found] == [A, LOOSE]
    twice = apply_reviews([judged("dog", A)], [said("missing", LOOSE), said("missing", A)], CLASSES)
    assert [j.box for j in twice] == [A, A]  # the newest outline of the one drawn object


def test_who_says_the_box_was_right_after_all_withdraws_what_was_drawn_instead() -> None:
    reviews = history(
        said("wrong", reason=WrongReason.OUTLINE, new_box=LOOSE),
        said("wrong", LOOSE, new_class="cat"),  # of the drawn box
        said("right", person="Ben"),
    )
    run = [judged("dog", A)]
    assert outcomes(apply_reviews(run, reviews[:2], CLASSES)) == [
        ("dog", A, "reject", 0.0),
        ("dog", LOOSE, "reject", 0.0),
        ("cat", LOOSE, "accept", 1.0),
    ]
    assert outcomes(apply_reviews(run, reviews, CLASSES)) == [("dog", A, "accept", 1.0)]


def test_the_right_box_is_what_was_shown_when_two_overlap() -> None:
    reviews = history(
        said("wrong", reason=WrongReason.OUTLINE, new_box=LOOSE), said("right", LOOSE, person="Ben")
    )
    found = apply_reviews([judged("dog", A)], reviews, CLASSES)
    assert [j.outcome for j in found] == [Outcome.REJECT, Outcome.ACCEPT]
    assert [*find_contradictions(reviews)] == []  # Ben agrees with Ann


def test_a_complete_image_has_no_doubt_as_a_whole() -> None:
    doubt = replace(judged("cat", (0, 0, 320, 240), Outcome.UNSURE), row=WHOLE_IMAGE)
    reviews = history(said("complete", None, ""))
    (found,) = apply_reviews([doubt], reviews, CLASSES)
    assert (found.outcome, found.whole_image) == (Outcome.REJECT, True)
    assert is_complete(reviews) and not is_complete(undone(reviews, 0))


def test_two_people_contradict_each_other_until_one_changes_their_mind() -> None:
    ann, ben = said("right"), said("wrong", LOOSE, person="Ben")
    ((older, newer),) = find_contradictions(history(ann, ben))
    assert (older.person, newer.person) == ("Ann", "Ben")
    (found,) = apply_reviews([judged("dog", A)], history(ann, ben), CLASSES)
    assert found.outcome is Outcome.REJECT  # the newest counts
    assert [*find_contradictions(history(ann, ben, said("right", person="Ben")))] == []
    assert [*find_contradictions(undone(history(ann, ben), 1))] == []
    assert [*find_contradictions(history(ann, said("unsure", person="Ben")))] == []
    assert [*find_contradictions(history(said("right"), said("wrong")))] == []  # one person


def test_what_people_said_in_words() -> None:
    wrong = said("wrong", reason=WrongReason.CLASS, new_class="cat", note="it meows")
    assert review_words(wrong) == "wrong, an object of another class, it is 'cat': it meows"
    first, back = undone(history(wrong), 0)
    assert review_words(first).endswith("(taken back): it meows")
    assert review_words(back) == "took 'wrong' back: it meows"


# Any reviews of two classes on a grid of boxes that overlap in part, and far apart.

_BOXES = st.sampled_from([A, LOOSE, (12, 10, 52, 50), (30, 10, 70, 50), FAR, (100, 100, 140, 155)])


@st.composite
def reviews_of_one_image(draw: st.DrawFn) -> list[Review]:
    found = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        answer = draw(st.sampled_from(ReviewAnswer))
        if answer is ReviewAnswer.COMPLETE:
            found.append(said("complete", None, "", id=number))
            continue
        more: dict[str, object] = {"id": number, "person": draw(st.sampled_from(["Ann", "Ben"]))}
        class_name = draw(st.sampled_from(CLASSES))
        if answer is ReviewAnswer.WRONG:
            kind = draw(st.sampled_from([None, WrongReason.OUTLINE, WrongReason.CLASS]))
            if kind is WrongReason.OUTLINE:
                more["new_box"] = draw(_BOXES)
            if kind is WrongReason.CLASS:
                more["new_class"] = CLASSES[class_name == "dog"]
            more["reason"] = kind
        found.append(said(answer.value, draw(_BOXES), class_name, **more))
        found[-1].check()
    return found


_RUN = st.lists(st.builds(judged, st.sampled_from(CLASSES), _BOXES, st.sampled_from(Outcome)))


@given(_RUN, reviews_of_one_image(), st.data())
def test_taking_a_review_back_restores_exactly(
    run: list[Judgement], reviews: list[Review], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(reviews) - 1))
    without = reviews[:number] + reviews[number + 1 :]
    assert apply_reviews(run, undone(reviews, number), CLASSES) == apply_reviews(
        run, without, CLASSES
    )


@given(_RUN, reviews_of_one_image())
def test_judged_boxes_keep_their_places_and_the_newest_answer_counts(
    run: list[Judgement], reviews: list[Review]
) -> None:
    found = apply_reviews(run, reviews, CLASSES)
    assert [(j.class_name, j.box, j.score) for j in found[: len(run)]] == [
        (j.class_name, j.box, j.score) for j in run
    ]
    assert all(j.row == ADDED and j.verdict is None for j in found[len(run) :])
    last = reviews[-1]
    if last.answer is ReviewAnswer.RIGHT:
        same = [j for j in found if j.class_name == last.class_name and j.box == last.box]
        assert not same or any(j.probability == 1 for j in same)
    if last.answer is ReviewAnswer.WRONG and not last.new_box:
        same = [j for j in found if j.class_name == last.class_name and j.box == last.box]
        assert not same or any(j.probability == 0 for j in same)


def _far(box: Xyxy | None) -> Xyxy | None:
    return (box[0] + 500, box[1] + 500, box[2] + 500, box[3] + 500) if box else None


@given(_RUN, reviews_of_one_image(), reviews_of_one_image())
def test_the_order_of_unrelated_reviews_does_not_matter(
    run: list[Judgement], here: list[Review], elsewhere: list[Review]
) -> None:
    moved = [
        replace(review, box=_far(review.box), new_box=_far(review.new_box))
        for review in elsewhere
        if review.answer is not ReviewAnswer.COMPLETE
    ]
    one, other = (
        sorted(outcomes(apply_reviews(run, reviews, CLASSES)))
        for reviews in (here + moved, moved + here)
    )
    assert one == other


def test_a_long_chain_of_corrections_is_followed_to_its_end() -> None:
    reviews = [said("wrong", A, id=1, new_class="cat")]
    for number in range(2, 1500):
        before = reviews[-1]
        dog = before.class_name == "cat"
        reviews.append(
            said("wrong", A, "dog" if dog else "cat", id=number, new_class="cat" if dog else "dog")
        )
    found = apply_reviews([], reviews, CLASSES)
    accepted = [j.class_name for j in found if j.outcome is Outcome.ACCEPT]
    assert accepted == [reviews[-1].new_class]


@pytest.mark.parametrize("taken_back", [0, 1])
def test_reviews_that_take_back_count_for_nothing(taken_back: int) -> None:
    reviews = undone(history(said("right"), said("wrong")), taken_back)
    (found,) = apply_reviews([judged("dog", A, Outcome.UNSURE)], reviews, CLASSES)
    assert found.outcome is (Outcome.REJECT, Outcome.ACCEPT)[taken_back]


# Masks


def square(left: int, top: int, right: int, bottom: int) -> Mask:
    """All pixels of a box, on an image of 200×200."""
    pixels = np.zeros((200, 200), bool)
    pixels[top:bottom, left:right] = True
    return Mask.from_array(pixels)


def outlined(class_name: str = "dog", outcome: Outcome = Outcome.ACCEPT) -> Judgement:
    """A box of the run with the mask of a model."""
    model = Segmentation(square(*A), 0.8, 0.9, "sam@1")
    return replace(judged(class_name, A, outcome), segmentation=model)


SMALLER = (12, 10, 40, 48)


def test_the_mask_of_a_person_takes_the_place_of_the_models() -> None:
    run = [outlined(), judged("cat", FAR)]
    mask = square(*SMALLER)
    dog, cat = apply_reviews(run, [said("right", mask=mask)], CLASSES)
    assert dog.segmentation == Segmentation(mask, 1.0, 1.0, "person:Ann")
    assert (dog.box, dog.outcome, dog.row) == (SMALLER, Outcome.ACCEPT, run[0].row)
    assert "and outlined it" in dog.reason and cat is run[1]
    assert apply_reviews(run, [said("right", mask=None)], CLASSES)[0].mask == square(*A)


def test_who_is_shown_the_new_box_speaks_of_the_same_object() -> None:
    tiny = (10, 10, 24, 50)  # its IoU with A is below one half
    reviews = history(said("right", mask=square(*tiny)), said("wrong", tiny, person="Ben"))
    (dog,) = apply_reviews([outlined()], reviews, CLASSES)
    assert (dog.outcome, dog.box) == (Outcome.REJECT, tiny)
    (again,) = apply_reviews([outlined()], [*reviews, said("right", A, person="Cid")], CLASSES)
    assert (again.outcome, again.mask) == (Outcome.ACCEPT, square(*tiny)), "it stays outlined"


def test_a_wrong_outline_gives_way_to_a_mask() -> None:
    wrong = said("wrong", reason=WrongReason.OUTLINE, mask=square(*SMALLER))
    old, new = apply_reviews([outlined()], [wrong], CLASSES)
    assert (old.outcome, old.mask) == (Outcome.REJECT, square(*A))
    assert (new.outcome, new.box, new.mask) == (Outcome.ACCEPT, SMALLER, square(*SMALLER))
    assert review_words(wrong) == "wrong, badly outlined, with a mask"


def test_a_new_box_without_a_mask_drops_the_mask_that_fits_no_more() -> None:
    boxed = said("wrong", reason=WrongReason.OUTLINE, new_box=LOOSE)
    _, new = apply_reviews([outlined()], [boxed], CLASSES)
    assert (new.box, new.segmentation) == (LOOSE, None)
    missing = history(said("missing", mask=square(*A)), said("missing", LOOSE, person="Ben"))
    (found,) = apply_reviews([], missing, CLASSES)
    assert (found.box, found.segmentation) == (LOOSE, None), "a newer box of the same object"
    (masked,) = apply_reviews([], missing[::-1], CLASSES)
    assert (masked.box, masked.mask) == (A, square(*A))


def test_an_object_of_another_class_keeps_its_mask() -> None:
    wrong = said("wrong", reason=WrongReason.CLASS, new_class="cat")
    _, cat = apply_reviews([outlined()], [wrong], CLASSES)
    assert (cat.class_name, cat.segmentation) == ("cat", outlined().segmentation)
    own = replace(judged("cat", A, Outcome.REJECT), segmentation=None)
    _, kept = apply_reviews([outlined(), own], [wrong], CLASSES)
    assert kept.segmentation is None, "a box that the run judged has its own, or none"
    mine = replace(wrong, mask=square(*SMALLER))
    _, drawn = apply_reviews([outlined()], [mine], CLASSES)
    assert (drawn.class_name, drawn.mask, drawn.box) == ("cat", square(*SMALLER), SMALLER)


def test_a_mask_that_is_taken_back_leaves_what_was_before() -> None:
    reviews = history(said("right", mask=square(*SMALLER)), said("missing", FAR, mask=square(*FAR)))
    assert apply_reviews([outlined()], undone(reviews, 0), CLASSES)[0] == outlined()
    assert len(apply_reviews([outlined()], undone(reviews, 1), CLASSES)) == 1


def test_the_outlines_that_people_left_have_their_masks() -> None:
    reviews = history(said("right", mask=square(*SMALLER)), said("missing", FAR, mask=square(*FAR)))
    found = reviewed_boxes(reviews)
    assert [(box.box, box.mask) for box, _ in found] == [
        (SMALLER, square(*SMALLER)),
        (FAR, square(*FAR)),
    ]


def test_a_box_that_is_called_wrong_and_of_its_own_class_is_still_answered() -> None:
    """Stores from elsewhere may have such a review; withdrawing it never came to an end."""
    reviews = history(said("wrong", new_class="dog"), said("right"), said("wrong"))
    for count, outcome in ((1, "reject"), (2, "accept"), (3, "reject")):
        box, _ = reviewed_boxes(reviews[:count])[0]
        assert box.outcome.value == outcome
    assert list(find_contradictions(reviews)) == []


def calls_for(count: int) -> int:
    """Python calls while each of ``count`` boxes of an image is reviewed twice."""
    boxes = [(30.0 * n, 0.0, 30.0 * n + 20, 20.0) for n in range(count)]
    reviews = history(*(said(answer, box) for answer in ("wrong", "right") for box in boxes))
    judgements = [judged("dog", box) for box in boxes]
    calls = 0

    def count_call(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_call)
    try:
        found = apply_reviews(judgements, reviews, CLASSES)
    finally:
        sys.setprofile(None)
    assert [j.outcome for j in found] == [Outcome.ACCEPT] * count
    return calls


def test_a_review_of_a_crowded_image_takes_no_more_steps_than_of_an_empty_one() -> None:
    assert calls_for(400) < 4.4 * calls_for(100)


def test_a_mask_is_not_decoded_where_its_box_is_kept_beside_it() -> None:
    unreadable = Mask(200, 200, "?")
    with pytest.raises(InvalidInput):
        unreadable.check()
    missing = said("missing", FAR, mask=unreadable)
    wrong = said("wrong", new_box=SMALLER, mask=unreadable)
    old, *new = apply_reviews([judged("dog", A)], history(missing, wrong), CLASSES)
    assert old.outcome is Outcome.REJECT
    assert [(box.box, box.mask) for box in new] == [(FAR, unreadable), (SMALLER, unreadable)]
