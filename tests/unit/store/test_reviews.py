"""Reviews and their queues, on both databases."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update
from stored import LIMITS, encoded, image_of, labelled, review_box, stored_run

from secondlook.store import Store, open_store, reviews
from secondlook.store.integrity import check
from secondlook.store.retention import Retention, count_deletions, forget
from secondlook.store.reviews import QueueItem
from secondlook.store.schema import review_items, review_queues
from secondlook.store.schema import reviews as reviews_table
from secondlook_client.errors import (
    AlreadyExists,
    InvalidInput,
    LostLease,
    NotFound,
    StoreUnavailable,
)
from secondlook_client.masks import Mask
from secondlook_client.values import (
    EmptyReason,
    NewReview,
    Outcome,
    Review,
    ReviewAnswer,
    ReviewItem,
    WrongReason,
)

DOG = (20, 5, 39, 25)
RIGHT, WRONG, UNSURE = ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE


def asked(store: Store, run: str) -> Iterator[QueueItem]:
    """Every judgement of a run."""
    for result in store.results.page(store.results.run(run).id):
        for place, one in enumerate(result.labelled.judgements):
            box, p = one.box, one.probability
            yield QueueItem(result.cursor, place, one.class_name, box, p, one.outcome, "s", 0.5)


@pytest.fixture
def queue(store: Store) -> str:
    """A queue of nine boxes on three images."""
    stored_run(store, "first", [labelled("a"), labelled("b"), labelled("c")])
    made = store.reviews.create_queue("q", "first", asked(store, "first"), "random", {"seed": 7})
    assert (made.total, made.answered, made.leased, made.run) == (9, 0, 0, "first")
    return made.name


def stands(store: Store, name: str = "q") -> tuple[int, int, int]:
    found = store.reviews.queue(name)
    return found.total, found.answered, found.leased


def clean(store: Store) -> None:
    assert [*map(str, check(store, content=False))] == []


# Reviews


def test_a_review_is_kept_as_it_was_given(store: Store) -> None:
    stored_run(store, "first", [labelled()])
    given = review_box(
        store,
        image_of(store, "street"),
        "dog",
        DOG,
        "wrong",
        "Ann\x00",
        "ünï\ud800",
        reason=WrongReason.OUTLINE,
        new_class="cat",
        new_box=(-5, 4, 30.5, 99),
    )
    assert (given.person, given.note, given.new_class) == ("Ann?", "ünï?", "cat")
    assert given.new_box == (0.0, 4.0, 30.5, 30.0)  # cut to the image, which has 40×30
    assert store.reviews.get(given.id) == given
    assert store.reviews.of_image(given.image) == store.reviews.history() == [given]
    assert store.reviews.image_names([given.image, "f" * 64]) == {given.image: ("street", 40, 30)}
    clean(store)


def test_all_or_none_of_a_call_are_kept(store: Store) -> None:
    stored_run(store, "first", [labelled()])
    good = review_box(store, image_of(store, "street"), "dog", DOG, "right")
    new = NewReview(good.image, "dog", DOG, WRONG, person="Ann")
    for bad, error in (
        (replace(new, image="f" * 64), NotFound),
        (replace(new, new_box=(50, 50, 60, 60)), InvalidInput),
        (replace(new, new_class="dog"), InvalidInput),
        (replace(new, reason=WrongReason.NOTHING_THERE, new_class="cat"), InvalidInput),
        (replace(new, answer=RIGHT, new_class="cat"), InvalidInput),
        (replace(new, answer=ReviewAnswer.COMPLETE), InvalidInput),
        (replace(new, box=None), InvalidInput),
        (replace(new, box=(0, 0, float("inf"), 1)), InvalidInput),
        (replace(new, box=(0, 0, 2**70, 1)), InvalidInput),
        (replace(new, note="x" * 2001), InvalidInput),
        (replace(new, class_name="x" * 121), InvalidInput),
        (replace(new, image="../../etc/passwd"), InvalidInput),
    ):
        with pytest.raises(error):
            store.reviews.add([new, bad])
    with pytest.raises(InvalidInput, match="at most 10000 reviews"):
        store.reviews.add([new] * 10_001)
    assert store.reviews.history() == [good]


def test_a_mask_is_kept_with_its_review(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored_run(store, "first", [labelled()])
    (sha256,) = store.reviews.image_names([hashlib.sha256(encoded("street")).hexdigest()])
    mask = Mask.from_runs(40, 30, [660, 20, 520])  # one column: x 22, y 0 to 20
    new = NewReview(sha256, "dog", DOG, RIGHT, person="Ann", mask=mask)
    outline = replace(new, answer=WRONG, reason=WrongReason.OUTLINE, new_box=(1, 1, 9, 9))
    missing = replace(new, answer=ReviewAnswer.MISSING)
    right, wrong, added = store.reviews.add([new, outline, missing])
    assert (right.mask, right.box, right.new_box) == (mask, DOG, None)
    assert wrong.new_box == added.box == mask.box == (22, 0, 23, 20), "its tight box"
    assert store.reviews.add([right, wrong, added]) == [right, wrong, added], "kept once"
    other = replace(new, mask=Mask.from_runs(40, 30, [661, 19, 520]))
    again = Review(**{**vars(other), "created_at": right.created_at})
    assert store.reviews.add([again])[0].id > added.id, "another mask is another review"
    judged = [one for one in store.results.page(run.id)[0].labelled.judgements if one.mask]
    assert [(one.box, one.mask) for one in judged] == [((22, 1, 23, 20), other.mask)]
    back = store.reviews.undo(right.id, "Ben")
    assert back.mask == mask and store.reviews.get(right.id).undone_by == back.id
    for wrong_mask, words in (
        (Mask.from_runs(30, 40, [660, 20, 520]), "the mask has 30×40 pixels and the image 40×30"),
        (Mask.from_runs(40, 30, [1200]), "the mask is empty"),
        (Mask(40, 30, "0"), "does not fill its image"),
    ):
        with pytest.raises(InvalidInput, match=words):
            store.reviews.add([replace(new, mask=wrong_mask)])
    clean(store)
    history = store.reviews.history()
    monkeypatch.setattr(reviews, "PAGE_MASK_CHARS", 60)
    some = store.reviews.history()
    assert 1 < len(some) < len(history) and some == history[: len(some)]
    assert store.reviews.history(after=some[-1].id)[0] == history[len(some)]
    monkeypatch.setattr(reviews, "MAX_MASK_CHARS", 200)
    with pytest.raises(InvalidInput, match="the masks of one image may take 200 characters"):
        store.reviews.add([replace(new, box=(n, 0, 9, 9)) for n in range(4)])


def test_an_image_has_so_many_reviews_and_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "MAX_REVIEWS", 2)
    stored_run(store, "first", [labelled()])
    first = review_box(store, image_of(store, "street"), "dog", DOG, "right")
    review_box(store, image_of(store, "street"), "dog", DOG, "wrong")
    with pytest.raises(InvalidInput, match="at most 2 reviews of one image"):
        review_box(store, image_of(store, "street"), "dog", DOG, "right")
    with pytest.raises(InvalidInput, match="at most 2 reviews of one image"):
        store.reviews.undo(first.id, "Ben")
    assert len(store.reviews.history()) == 2


def test_a_review_is_taken_back_once(store: Store) -> None:
    run = stored_run(store, "first", [labelled()])
    before = store.results.page(run.id)[0].labelled.judgements
    given = review_box(store, image_of(store, "street"), "dog", DOG, "right")
    assert store.results.page(run.id)[0].labelled.judgements != before
    back = store.reviews.undo(given.id, "Ben", "by mistake")
    assert (back.undoes, back.person, back.note) == (given.id, "Ben", "by mistake")
    assert (back.class_name, back.box, back.answer) == ("dog", DOG, RIGHT)
    assert store.reviews.undo(given.id, "Cid") == back
    assert store.reviews.get(given.id) == replace(given, undone_by=back.id)
    assert store.results.page(run.id)[0].labelled.judgements == before
    with pytest.raises(InvalidInput, match="takes back another"):
        store.reviews.undo(back.id, "Ben")
    for number in (-1, 0, 99, 2**63, 2**70):
        with pytest.raises(NotFound, match="no review"):
            store.reviews.undo(number, "Ben")
    clean(store)


def test_the_history_of_a_run_is_that_of_its_images(store: Store) -> None:
    one, two = (stored_run(store, name, [labelled(name)]) for name in ("one", "two"))
    first = review_box(store, image_of(store, "one"), "dog", DOG, "right")
    second = review_box(store, image_of(store, "two"), "dog", DOG, "wrong")
    assert store.reviews.history(one.id) == [first]
    assert store.reviews.history(two.id) == [second]
    assert store.reviews.history(after=first.id) == [second]
    assert store.reviews.history(limit=1) == [first]


def test_contradictions_are_found_page_by_page(store: Store) -> None:
    run = stored_run(store, "first", [labelled(name) for name in "abcd"])
    other = stored_run(store, "other", [labelled("x")])
    for name in "abcd":
        review_box(store, image_of(store, name), "dog", DOG, "right", "Ann")
        if name != "c":
            answer = "wrong" if name != "b" else "right"
            review_box(store, image_of(store, name), "dog", (21, 5, 39, 25), answer, "Ben")
    (one,) = store.reviews.contradictions(run.id, limit=1)
    assert (one.older.person, one.newer.person) == ("Ann", "Ben")
    assert "Ann says 'right' and Ben says 'wrong' of the same 'dog'" in str(one)
    (two,) = store.reviews.contradictions(run.id, after=one.image_id, limit=1)
    assert two.image_id == image_of(store, "d")
    assert store.reviews.contradictions(run.id, after=two.image_id, limit=1) == []
    assert store.reviews.contradictions() == [one, two]
    assert store.reviews.contradictions(other.id) == []


def test_an_import_is_made_again_without_doubling(store: Store, store_places: Any) -> None:
    stored_run(store, "first", [labelled("a"), labelled("b")])
    given = review_box(store, image_of(store, "a"), "dog", DOG, "wrong", new_class="cat")
    review_box(store, image_of(store, "b"), "dog", DOG, "right")
    store.reviews.undo(given.id, "Ben")
    exported = store.reviews.history()
    assert store.reviews.add_from(exported) == (0, 3)
    with open_store(*store_places("sqlite")) as other:
        stored_run(other, "elsewhere", [labelled("b"), labelled("a")])
        review_box(other, image_of(other, "b"), "dog", DOG, "unsure", "Cid")  # shifts the ids
        assert other.reviews.add_from(exported[:2]) == (2, 0)
        assert other.reviews.add_from(exported) == (1, 2)
        assert other.reviews.add_from(exported) == (0, 3)
        kept = other.reviews.history()[1:]
        assert [_content(one) for one in kept] == [_content(one) for one in exported]
        assert kept[0].undone_by == kept[2].id and kept[2].undoes == kept[0].id
        clean(other)


def _content(review: Review) -> Review:
    return replace(review, id=0, undone_by=None, undoes=None)


def test_an_import_names_what_is_not_there(store: Store) -> None:
    stored_run(store, "first", [labelled("a")])
    good = review_box(store, image_of(store, "a"), "dog", DOG, "right")
    lost = replace(good, id=0, image="e" * 64)
    with pytest.raises(NotFound, match="no image eeee"):
        store.reviews.add_from([lost])
    with pytest.raises(InvalidInput, match="takes back 5, which does not come before"):
        store.reviews.add_from([replace(good, id=9, undoes=5)])
    assert store.reviews.history() == [good]


# Queues


def test_items_are_handed_out_in_order_and_answered(store: Store, queue: str) -> None:
    (first,) = store.reviews.next(queue, "Ann")
    assert (first.position, first.label_id, first.leased_to) == (1, "1.0", "Ann")
    assert (first.image_name, first.width, first.height) == ("a", 40, 30)
    assert (first.stratum, first.inclusion, first.outcome) == ("s", 0.5, Outcome.ACCEPT)
    assert store.reviews.item(first.id) == first
    given = store.reviews.answer(first.id, "Ann", WRONG, WrongReason.NOTHING_THERE, note="a bush")
    assert (given.class_name, given.box, given.note) == (first.class_name, first.box, "a bush")
    assert stands(store) == (9, 1, 0)
    (label,) = store.results.page(1, limit=1)
    assert label.labelled.judgements[0].outcome is Outcome.REJECT and label.reviewed == {0}
    (second,) = store.reviews.next(queue, "Ann")
    assert second.position == 2 and stands(store) == (9, 1, 1)
    read = store.reviews.items(queue)
    assert [item.position for item, _ in read] == [*range(1, 10)]
    assert [answer for _, answer in read] == [given, *[None] * 8]
    assert store.reviews.items(queue, after=read[6][0].id) == read[7:]
    clean(store)


def test_the_same_answer_twice_is_one_review(store: Store, queue: str) -> None:
    (item,) = store.reviews.next(queue, "Ann")
    box = (0, 0, 30, 50)  # reaches beyond the image
    given = store.reviews.answer(item.id, "Ann", WRONG, WrongReason.OUTLINE, new_box=box)
    again = store.reviews.answer(item.id, "Ann", WRONG, WrongReason.OUTLINE, new_box=box)
    assert again == given and len(store.reviews.history()) == 1 and stands(store)[1] == 1
    for person, answer in (("Ann", RIGHT), ("Ben", WRONG), ("Ben", RIGHT)):
        with pytest.raises(AlreadyExists, match="was answered 'wrong' by Ann"):
            store.reviews.answer(item.id, person, answer)
    assert len(store.reviews.history()) == 1


def test_two_people_never_get_the_same_item(store: Store, queue: str) -> None:
    ann, ben = (store.reviews.next(queue, person, 4) for person in ("Ann", "Ben"))
    assert {item.id for item in ann} & {item.id for item in ben} == set()
    assert [i.id for i in store.reviews.next(queue, "Ann", 3)] == [i.id for i in ann[:3]]  # resume
    assert len(store.reviews.next(queue, "Cid", 9)) == 1
    assert store.reviews.next(queue, "Dee", 9) == []
    with pytest.raises(LostLease, match="is with Ben now"):
        store.reviews.answer(ben[0].id, "Ann", RIGHT)
    assert store.reviews.release([item.id for item in ben] + [2**70, -1, 0], "Ann") == 0
    assert store.reviews.release([item.id for item in ben], "Ben") == 4
    assert len(store.reviews.next(queue, "Dee", 9)) == 4
    assert stands(store) == (9, 0, 9)


def test_a_lease_that_ended_is_given_to_others_and_its_answer_still_taken(
    store: Store, queue: str
) -> None:
    (mine,) = store.reviews.next(queue, "Ann")
    _let_leases_end(store)
    assert stands(store) == (9, 0, 0)
    assert store.reviews.answer(mine.id, "Ann", RIGHT).person == "Ann"  # nobody else had it
    (late,) = store.reviews.next(queue, "Ann")
    _let_leases_end(store)
    (taken,) = store.reviews.next(queue, "Ben")
    assert taken.id == late.id and taken.leased_to == "Ben"
    with pytest.raises(LostLease):
        store.reviews.answer(late.id, "Ann", RIGHT)


def _let_leases_end(store: Store) -> None:
    with store.database.writing() as connection:
        held = review_items.c.lease_until > 0
        connection.execute(update(review_items).where(held).values(lease_until=1.0))


def test_many_people_at_once_get_every_item_once(store: Store, queue: str) -> None:
    got: list[ReviewItem] = []
    wrong: list[BaseException] = []

    def ask(person: str) -> None:
        try:
            while items := store.reviews.next(queue, person):
                for item in items:
                    store.reviews.answer(item.id, person, UNSURE)
                got.extend(items)
        except BaseException as failure:
            wrong.append(failure)

    threads = [threading.Thread(target=ask, args=(f"p{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(item.position for item in got) == [*range(1, 10)]
    assert stands(store) == (9, 9, 0)
    clean(store)


def test_an_undone_answer_opens_its_item_for_who_undid_it(store: Store, queue: str) -> None:
    (item,) = store.reviews.next(queue, "Ann")
    given = store.reviews.answer(item.id, "Ann", RIGHT)
    store.reviews.undo(given.id, "Ann")
    assert stands(store) == (9, 0, 1)
    (again,) = store.reviews.next(queue, "Ann")
    assert (again.id, again.review_id) == (item.id, None)
    assert store.reviews.answer(item.id, "Ann", WRONG).id > given.id
    clean(store)


def test_what_cannot_be_asked_is_refused(store: Store, queue: str) -> None:
    for count, lease_s in ((0, 1.0), (1001, 1.0), (1, 0.0), (1, 1e9), (1, float("nan"))):
        with pytest.raises(InvalidInput, match="expected 1 to 1000 items"):
            store.reviews.next(queue, "Ann", count, lease_s)
    for person in ("", "x" * 121, "A\x00"):
        with pytest.raises(InvalidInput, match="expected a person"):
            store.reviews.next(queue, person)
    with pytest.raises(NotFound, match="no review queue 'other'"):
        store.reviews.next("other", "Ann")
    (item,) = store.reviews.next(queue, "Ann")
    with pytest.raises(InvalidInput, match="is answered with right, wrong, unsure"):
        store.reviews.answer(item.id, "Ann", ReviewAnswer.MISSING)
    for number in (0, -5, 10**6, 2**70):
        with pytest.raises(NotFound, match="no item"):
            store.reviews.answer(number, "Ann", RIGHT)
    with pytest.raises(InvalidInput, match="x2 > x1"):
        store.reviews.answer(item.id, "Ann", WRONG, new_box=(0, 0, float("nan"), 5))
    for name in ("", " ", "x" * 201, "a\x00"):
        with pytest.raises(InvalidInput, match="a queue's name"):
            store.reviews.create_queue(name, "first", asked(store, "first"), "random")
    assert store.reviews.history() == []


def test_a_queue_appears_when_it_is_complete_or_not_at_all(store: Store, queue: str) -> None:
    def failing() -> Iterator[QueueItem]:
        yield from asked(store, "first")
        with pytest.raises(NotFound):
            store.reviews.queue("half")
        with pytest.raises(AlreadyExists, match="is being made"):
            store.reviews.create_queue("half", "first", asked(store, "first"), "random")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.reviews.create_queue("half", "first", failing(), "random")
    gone = replace(next(asked(store, "first")), cursor=999)
    with pytest.raises(StoreUnavailable, match="results were deleted"):
        store.reviews.create_queue("half", "first", [gone], "random")
    with pytest.raises(InvalidInput, match="nothing to ask about"):
        store.reviews.create_queue("half", "first", [], "random")
    with pytest.raises(NotFound, match="no run 'none'"):
        store.reviews.create_queue("half", "none", asked(store, "first"), "random")
    with pytest.raises(AlreadyExists, match="a queue 'q' already"):
        store.reviews.create_queue("q", "first", asked(store, "first"), "random")
    assert [one.name for one in store.reviews.queues()] == ["q"]
    assert store.reviews.settings("q") == {"seed": 7}
    assert _rows(store, review_items) == 9
    clean(store)


def _rows(store: Store, table: Any) -> int:
    with store.database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_queue_is_deleted_and_its_reviews_stay(
    store: Store, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "ITEMS_A_TRANSACTION", 2)
    (item,) = store.reviews.next(queue, "Ann")
    given = store.reviews.answer(item.id, "Ann", RIGHT)
    store.reviews.create_queue("other", "first", asked(store, "first"), "random")
    assert store.reviews.queue("other").total == 9
    store.reviews.delete_queue(queue)
    assert store.reviews.history() == [given]
    assert [one.name for one in store.reviews.queues()] == ["other"]
    with pytest.raises(NotFound):
        store.reviews.delete_queue(queue)
    clean(store)


# The rest of the store


def test_what_is_forgotten_leaves_its_queues(store: Store, queue: str) -> None:
    (item,) = store.reviews.next(queue, "Ann")  # of image a
    store.reviews.answer(item.id, "Ann", RIGHT)
    gone = forget(store, Retention(runs=("first",)))
    assert (gone.items, gone.reviewed) == (2, 1)
    assert stands(store) == (3, 1, 0)
    clean(store)
    everything = Retention(runs=("first",), reviewed=True)
    assert count_deletions(store, everything).items == 1
    assert forget(store, everything).runs == 1
    assert [_rows(store, t) for t in (reviews_table, review_queues, review_items)] == [0, 0, 0]
    clean(store)


def test_the_check_finds_reviews_that_were_changed(store: Store, queue: str) -> None:
    (item,) = store.reviews.next(queue, "Ann")
    given = store.reviews.answer(item.id, "Ann", RIGHT)
    with store.database.writing() as connection:
        changed = update(reviews_table).where(reviews_table.c.id == given.id)
        connection.execute(changed.values(answer="wrong"))
        connection.execute(update(review_queues).values(answered=5))
        open_again = update(review_items).where(review_items.c.id == item.id)
        connection.execute(open_again.values(state=0))
    found = [*map(str, check(store, content=False))]
    assert len(found) == 3
    assert any(f"review {given.id}: has changed" in one for one in found)
    assert any("review queue q: counts (total, answered) (9, 5)" in one for one in found)
    assert any(f"review item {item.id}: is answered without" in one for one in found)


def test_a_complete_image_without_labels_is_verified_empty(store: Store) -> None:
    run = stored_run(store, "first", [labelled("empty", rows=())])
    (before,) = store.results.page(run.id)
    assert before.labelled.empty is EmptyReason.NOTHING_PROPOSED
    given = review_box(store, before.image_id, "", None, "complete")
    (found,) = store.results.page(run.id)
    assert found.labelled.empty is found.labelled.result.empty is EmptyReason.VERIFIED_EMPTY
    assert LIMITS.verify_empty is False  # no verifier was asked
    store.reviews.undo(given.id, "Ann")
    (found,) = store.results.page(run.id)
    assert found.labelled.empty is EmptyReason.NOTHING_PROPOSED
