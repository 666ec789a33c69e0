"""Reviews over gRPC: queues handed out under leases, answers kept once, taken back, listed."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from frozen import DOG_BOX, photos, stored
from serving import serving

from secondlook.store import Store
from secondlook_client import AsyncClient, Client
from secondlook_client.errors import (
    AlreadyExists,
    InvalidInput,
    LostLease,
    NotFound,
    NotSupported,
    SecondlookError,
)
from secondlook_client.masks import Mask
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.v1 import reviews_pb2 as pb
from secondlook_client.v1 import reviews_pb2_grpc
from secondlook_client.values import (
    NewReview,
    Outcome,
    Review,
    ReviewAnswer,
    ReviewItem,
    WrongReason,
)

IMAGES = photos(6)
SHA256S = {hashlib.sha256(content).hexdigest(): name for name, content in IMAGES.items()}


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    """Of a server over a run of six images, a dog on each, with a queue that asks about all."""
    stored(store, "street", IMAGES)
    with serving(store=store) as running, Client(running.address) as connected:
        connected.reviews.create_queue("q", "street", classes=["dog"])
        yield connected


def labels_of(client: Client) -> int:
    return sum(len(found.result.labels) for found in client.jobs.results("street"))


def test_a_box_comes_with_all_that_a_person_needs(client: Client) -> None:
    (item,) = client.reviews.next("q", person="ada")
    assert (item.queue, item.position, item.class_name, item.box) == ("q", 1, "dog", DOG_BOX)
    assert (item.outcome, item.probability) == (Outcome.ACCEPT, pytest.approx(0.95))
    assert item.image_name == SHA256S[item.image] and (item.width, item.height) == (72, 64)
    assert item.leased_to == "ada" and 500 < item.lease_until - time.time() <= 600
    assert item.judgement and item.judgement.question == "Dog?"
    assert item.judgement.p_yes == 0.95 and item.judgement.score == pytest.approx(0.8)
    assert client.reviews.image(item) == IMAGES[item.image_name]


def test_two_people_never_get_the_same_box(client: Client) -> None:
    ada = client.reviews.next("q", person="ada", count=3)
    bob = client.reviews.next("q", person="bob", count=100)
    assert len(ada) == len(bob) == 3 and not {i.id for i in ada} & {i.id for i in bob}
    assert client.reviews.next("q", person="eve") == []
    standing = client.reviews.queue("q")
    assert (standing.total, standing.answered, standing.leased, standing.waiting) == (6, 0, 6, 0)
    with pytest.raises(LostLease, match="with ada now"):
        client.reviews.answer(ada[0], "right", person="bob")
    client.reviews.release(ada, person="bob")  # not theirs: nothing happens
    assert client.reviews.next("q", person="eve") == []
    client.reviews.release(ada[1:], person="ada")
    assert [i.id for i in client.reviews.next("q", person="eve", count=9)] == [
        i.id for i in ada[1:]
    ]


def test_a_program_that_was_stopped_goes_on_and_a_lease_ends(client: Client) -> None:
    before = client.reviews.next("q", person="ada", count=2, lease_s=1)
    again = client.reviews.next("q", person="ada", count=2, lease_s=1)
    assert [i.id for i in again] == [i.id for i in before]
    time.sleep(1.1)
    taken = client.reviews.next("q", person="bob", count=1)
    assert taken[0].id == before[0].id and taken[0].leased_to == "bob"


def test_an_answer_is_kept_once_and_changes_the_labels(client: Client) -> None:
    right, wrong, unsure = client.reviews.next("q", person="ada", count=3)
    assert labels_of(client) == 6
    kept = client.reviews.answer(right, "right", person="ada", note="seen")
    assert client.reviews.answer(right, "right", person="ada", note="seen") == kept
    assert (kept.answer, kept.person, kept.note, kept.box) == ("right", "ada", "seen", DOG_BOX)
    assert kept.image == right.image and abs(kept.created_at - time.time()) < 60
    client.reviews.answer(wrong, "wrong", person="ada", reason="class", new_class="cat")
    client.reviews.answer(unsure, ReviewAnswer.UNSURE, person="ada")
    assert client.reviews.queue("q").answered == 3
    found = {f.result.sha256: f.result for f in client.jobs.results("street")}
    assert [j.probability for j in found[right.image].labels] == [1.0]
    assert [j.class_name for j in found[wrong.image].labels] == ["cat"]
    assert found[unsure.image].labels == ()


def test_an_answer_has_the_mask_and_the_seconds_that_it_took(client: Client) -> None:
    (item,) = client.reviews.next("q", person="ada")
    mask = Mask.from_runs(item.width, item.height, [700, 60, item.width * item.height - 760])
    said = {"person": "ada", "reason": "outline", "mask": mask}
    kept = client.reviews.answer(item, "wrong", **said, seconds=3.25)
    assert (kept.mask, kept.new_box, kept.seconds) == (mask, mask.box, 3.25)
    # Sent again by another clock it is the same answer; with another mask it is not.
    assert client.reviews.answer(item, "wrong", **said, seconds=9.0) == kept
    other = Mask.from_runs(item.width, item.height, [700, 61, item.width * item.height - 761])
    with pytest.raises(AlreadyExists):
        client.reviews.answer(item, "wrong", **{**said, "mask": other})
    (listed,) = client.reviews.list()
    assert listed == kept and Review.from_dict(kept.to_dict()) == kept
    (box,) = next(
        f.result.labels for f in client.jobs.results("street") if f.result.sha256 == item.image
    )
    assert box.segmentation.mask == mask
    for seconds in (-1.0, 86_401.0, float("nan")):
        with pytest.raises(InvalidInput, match="seconds"):
            client.reviews.answer(item, "wrong", **said, seconds=seconds)


def test_contradictory_answers_say_who_said_what(client: Client) -> None:
    (item,) = client.reviews.next("q", person="ada")
    kept = client.reviews.answer(item, "right", person="ada")
    for person, answer in (("bob", "wrong"), ("bob", "right"), ("ada", "wrong")):
        with pytest.raises(AlreadyExists) as refused:
            client.reviews.answer(item, answer, person=person)
        assert f"answered 'right' by ada; take the review {kept.id} back" in str(refused.value)
    assert client.reviews.queue("q").answered == 1


def test_an_undone_answer_is_asked_again(client: Client) -> None:
    (item,) = client.reviews.next("q", person="ada")
    kept = client.reviews.answer(item, "wrong", person="ada", reason=WrongReason.NOTHING_THERE)
    assert labels_of(client) == 5
    back = client.reviews.undo(kept.id, person="ada")
    assert back.undoes == kept.id and client.reviews.undo(kept.id, person="ada").id == back.id
    assert labels_of(client) == 6 and client.reviews.queue("q").answered == 0
    (again,) = client.reviews.next("q", person="ada")
    assert again.id == item.id
    assert client.reviews.answer(again, "right", person="ada").id > back.id
    first, second, third = client.reviews.list()
    assert (first.undone_by, second.undoes, third.undone_by) == (back.id, kept.id, None)
    with pytest.raises(InvalidInput, match="takes back another one"):
        client.reviews.undo(back.id, person="ada")


def test_reviews_without_a_queue(client: Client) -> None:
    (sha256, *_) = SHA256S
    missing = NewReview(sha256, "cat", (1, 2, 30, 40), ReviewAnswer.MISSING, person="ada")
    complete = NewReview(sha256, "", None, ReviewAnswer.COMPLETE, person="ada", note="all seen")
    kept = client.reviews.add([missing, complete])
    assert [(k.answer, k.box) for k in kept] == [("missing", (1, 2, 30, 40)), ("complete", None)]
    assert list(client.reviews.list(image=sha256)) == list(client.reviews.list(run="street"))
    assert list(client.reviews.list(image="0" * 64)) == []
    assert labels_of(client) == 7
    assert client.reviews.add(kept) == kept, "with their times they are the same reviews"
    for wrong, words in (
        (replace(missing, image="0" * 64), "no image"),
        (replace(missing, image="x"), "64 hex digits"),
        (replace(missing, box=None), "got none"),
        (replace(missing, person=" "), "a person of 1 to 120"),
        (replace(missing, reason=WrongReason.CLASS), "belong to a wrong box"),
    ):
        with pytest.raises(SecondlookError, match=words):
            client.reviews.add([complete, wrong])
    assert len(list(client.reviews.list())) == 2, "all or none"


def test_the_history_travels_to_another_store_with_what_was_taken_back(
    client: Client, tmp_path
) -> None:
    from secondlook.store import open_store

    items = client.reviews.next("q", person="ada", count=3)
    kept = [client.reviews.answer(item, "wrong", person="ada") for item in items]
    client.reviews.undo(kept[0].id, person="bob")
    history = list(client.reviews.list())
    with open_store(tmp_path / "other") as store:
        stored(store, "street", IMAGES)
        with serving(store=store) as running, Client(running.address) as other:
            assert other.reviews.add_from(history) == (4, 0)
            assert other.reviews.add_from(history) == (0, 4)
            assert labels_of(other) == labels_of(client) == 4
            assert {(r.person, r.created_at) for r in other.reviews.list()} == {
                (r.person, r.created_at) for r in history
            }


def test_many_reviews_are_listed_page_by_page(client: Client) -> None:
    sha256s = list(SHA256S)
    new = [
        NewReview(sha256s[n % 6], "dog", (n / 100, 0, 20, 20), ReviewAnswer.MISSING, person="a")
        for n in range(1300)
    ]
    kept = client.reviews.add(new)
    assert [k.box for k in kept] == [pytest.approx(n.box, rel=1e-6) for n in new]
    assert list(client.reviews.list()) == kept
    assert [r.id for r in client.reviews.list(image=sha256s[2])] == [k.id for k in kept[2::6]]


def test_queues_are_made_listed_and_removed(client: Client) -> None:
    some = client.reviews.create_queue("a", "street", count=2, seed=3)
    assert (some.total, some.run, some.order) == (2, "street", "random")
    same = client.reviews.create_queue("a", "street", count=2, seed=3, reuse=True)
    assert same == some
    with pytest.raises(AlreadyExists, match="other choices"):
        client.reviews.create_queue("a", "street", count=3, seed=3, reuse=True)
    with pytest.raises(AlreadyExists):
        client.reviews.create_queue("a", "street", count=2, seed=3)
    with pytest.raises(InvalidInput, match="not measured by committee; measure it first"):
        client.reviews.create_queue("by-committee", "street", order="committee")
    for order in ("value", "uncertainty"):
        client.reviews.create_queue(f"by-{order}", "street", order=order)
    assert [q.name for q in client.reviews.queues()] == ["a", "by-uncertainty", "by-value", "q"]
    (item,) = client.reviews.next("a", person="ada")
    client.reviews.answer(item, "right", person="ada")
    client.reviews.delete_queue("a")
    with pytest.raises(NotFound, match="no review queue 'a'"):
        client.reviews.delete_queue("a")
    assert len(list(client.reviews.list())) == 1, "its answers stay"
    with pytest.raises(NotFound):
        client.reviews.image(item)


def test_a_measured_run_is_asked_by_its_uncertainty_which_travels_with_the_box(
    store: Store, client: Client
) -> None:
    results = store.results.page(store.results.run("street").id)
    for number, result in enumerate(results):
        of_box = LabelUncertainty("committee", number / 10, 1 - number / 10, "they disagree")
        of_box = replace(of_box, figures={"student": (0.25,)})
        store.uncertainties.put(UncertaintyMethod.COMMITTEE, "x", {result.cursor: {0: of_box}})
    queue = client.reviews.create_queue("sure-last", "street", order="uncertainty", count=2)
    assert queue.order == "committee"
    first, second = client.reviews.next("sure-last", person="ada", count=2)
    assert [int(one.label_id.split(".")[0]) for one in (first, second)] == [
        results[-1].cursor,
        results[-2].cursor,
    ]
    (told,) = first.uncertainties
    assert (told.method, told.value, told.reason) == ("committee", 0.5, "they disagree")
    assert told.figures == {"student": (0.25,)}


def test_queues_are_listed_page_by_page(store: Store, client: Client) -> None:
    names = [f"n{number:03}" for number in range(60)]
    for name in names:
        client.reviews.create_queue(name, "street", count=1)
    assert [q.name for q in client.reviews.queues()] == [*names, "q"]


def test_what_cannot_be_is_told_in_a_sentence(client: Client) -> None:
    (item,) = client.reviews.next("q", person="ada")
    for call, failure, words in (
        (lambda r: r.create_queue("n", "nothing"), NotFound, "nothing"),
        (lambda r: r.create_queue("n", "street", classes=["bird"]), InvalidInput, "bird"),
        (lambda r: r.create_queue("n", "street", order="best"), InvalidInput, "random, value"),
        (lambda r: r.create_queue("", "street"), InvalidInput, "1 to 200 characters"),
        (lambda r: r.create_queue("n", "street", classes="dog"), InvalidInput, "list of names"),
        (lambda r: r.next("nothing", person="ada"), NotFound, "no review queue"),
        (lambda r: r.next("q", person=""), InvalidInput, "1 to 120 characters"),
        (lambda r: r.next("q", person="ada", count=101), InvalidInput, "at most 100"),
        (lambda r: r.answer(item, "perhaps", person="ada"), InvalidInput, "right, wrong"),
        (lambda r: r.answer(item, "missing", person="ada"), InvalidInput, "no answer about a box"),
        (
            lambda r: r.answer(item, "wrong", person="ada", new_class="bird"),
            InvalidInput,
            "does not label 'bird', only dog, cat",
        ),
        (lambda r: r.answer(replace(item, id=999), "right", person="ada"), NotFound, "999"),
        (lambda r: r.undo(999, person="ada"), NotFound, "no review 999"),
        (lambda r: list(r.list(run="nothing")), NotFound, "nothing"),
        (lambda r: list(r.list(run="street", image="0" * 64)), InvalidInput, "not both"),
    ):
        with pytest.raises(failure, match=words):
            call(client.reviews)
    assert list(client.reviews.list()) == []


def test_numbers_that_only_a_newer_client_knows_are_refused(served) -> None:
    running, _ = served
    with grpc.insecure_channel(running.address) as channel:
        stub = reviews_pb2_grpc.ReviewServiceStub(channel)
        for method, request in (
            (stub.CreateReviewQueue, pb.CreateReviewQueueRequest(name="q", run="r", order=99)),
            (stub.AnswerReviewItem, pb.AnswerReviewItemRequest(item=1, person="a", answer=9)),
            (stub.AnswerReviewItem, pb.AnswerReviewItemRequest(item=1, person="a")),
            (
                stub.AnswerReviewItem,
                pb.AnswerReviewItemRequest(item=1, person="a", answer=2, reason=9),
            ),
            (stub.AddReviews, pb.AddReviewsRequest()),
            (stub.AddReviews, pb.AddReviewsRequest(reviews=[pb.NewReview(answer=9)])),
            (
                stub.AddReviews,
                pb.AddReviewsRequest(
                    reviews=[
                        pb.NewReview(
                            image="0" * 64, answer=5, person="a", created_at=time.time() * 2
                        )
                    ]
                ),
            ),
            (stub.ImportReviews, pb.ImportReviewsRequest(reviews=[pb.Review(answer=9)])),
            (stub.ImportReviews, pb.ImportReviewsRequest()),
            (stub.ListReviews, pb.ListReviewsRequest(page_token="x")),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                method(request, timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
            assert "expected" in refused.value.details() or "invalid" in refused.value.details()


def test_a_server_without_a_store_says_so() -> None:
    with (
        serving() as running,
        Client(running.address) as client,
        pytest.raises(NotSupported, match="no reviews; start it with --data"),
    ):
        client.reviews.next("q", person="ada")


def test_a_call_whose_answer_was_lost_is_made_again(store: Store) -> None:
    """The server did it, and the line broke before the client heard of it."""
    stored(store, "street", IMAGES)
    with serving(store=store) as running, Client(running.address) as client:
        reviews = client.reviews

        def lose_an_answer_of(name: str) -> None:
            real, tries = getattr(reviews._stub, name), iter((True, False))

            def call(request, timeout):
                answer = real(request, timeout=timeout)
                if next(tries):
                    raise Broken()
                return answer

            setattr(reviews._stub, name, call)

        for name in (
            "CreateReviewQueue",
            "NextReviewItems",
            "AnswerReviewItem",
            "AddReviews",
            "UndoReview",
            "DeleteReviewQueue",
        ):
            lose_an_answer_of(name)
        assert reviews.create_queue("q", "street", classes=["dog"]).total == 6
        (item,) = reviews.next("q", person="ada")
        assert item.position == 1 and reviews.queue("q").leased == 1
        kept = reviews.answer(item, "right", person="ada")
        reviews.add([NewReview(item.image, "", None, ReviewAnswer.COMPLETE, person="ada")])
        reviews.undo(kept.id, person="ada")
        assert [r.answer for r in reviews.list()] == ["right", "complete", "right"]
        reviews.delete_queue("q")
        assert list(reviews.queues()) == []


class Broken(grpc.RpcError):
    """What a call raises whose line broke."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "the line broke"

    def trailing_metadata(self):
        return ()


def test_the_same_in_an_event_loop(client: Client) -> None:
    async def answer_all() -> list[Review]:
        async with AsyncClient(client.address) as other:
            while items := await other.reviews.next("q", person="ada", count=4):
                for item in items:
                    await other.reviews.answer(item, "right", person="ada")
            assert [q.answered async for q in other.reviews.queues()] == [6]
            return [review async for review in other.reviews.list()]

    assert len(asyncio.run(answer_all())) == 6


def test_a_client_reads_what_a_newer_server_says() -> None:
    from secondlook_client import wire

    item: ReviewItem = wire.review_item(pb.ReviewItem(outcome=99, box={"x2": 1.0}))
    assert item.outcome is Outcome.UNSURE and item.judgement is None
    review = wire.review(pb.Review(answer=99, reason=99))
    assert (review.answer, review.reason) == (ReviewAnswer.UNSURE, None)
