"""Reviews: what people say of a server's labels, and the queues that ask for it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from secondlook_client import wire
from secondlook_client.calls import (
    Awaiting,
    Blocking,
    Connection,
    Plan,
    Send,
    Sleep,
    Streaming,
    StreamPlan,
    Unary,
)
from secondlook_client.errors import NotFound
from secondlook_client.images import sendable
from secondlook_client.masks import Mask
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import reviews_pb2 as pb
from secondlook_client.v1 import reviews_pb2_grpc
from secondlook_client.values import (
    NewReview,
    Review,
    ReviewAnswer,
    ReviewItem,
    ReviewOrder,
    ReviewQueue,
    WrongReason,
)

CALL_S = 30.0
"""For a call that moves no image, all its tries included."""
CREATE_S = 3600.0
"""A queue of millions of boxes takes minutes to be made."""
IMAGE_S = 120.0
ADDED_AT_ONCE = 500
"""Reviews in one message; the server takes no more."""
ADDED_BYTES = 4 * 2**20
"""Of the reviews in one message, which masks can fill; the server takes half as much again."""
RELEASED_AT_ONCE = NAMED_AT_ONCE = 1000
"""Boxes given back, and images asked for, in one message; the server takes no more."""

_Message = TypeVar("_Message", bound=Message)


class ReviewCalls(Connection):
    """What ``RemoteReviews`` and ``AsyncRemoteReviews`` share: everything but the waiting."""

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        super().__init__(channel, retry, address)
        self._stub = reviews_pb2_grpc.ReviewServiceStub(channel)

    @Unary
    def create_queue(
        self,
        name: str,
        run: str,
        *,
        order: str = ReviewOrder.RANDOM,
        classes: Sequence[str] = (),
        count: int = 0,
        seed: int = 0,
        reuse: bool = False,
        timeout_s: float = CREATE_S,
    ) -> Plan[ReviewQueue]:
        """Choose up to ``count`` boxes of a run (0: all) to ask people about.

        ``order`` is a ``ReviewOrder``; ``classes`` (default: all) limits the boxes; the same
        ``seed`` gives the same order. With ``reuse`` a queue of this name that was made with the
        same choices is given back. Raises ``AlreadyExists``, ``NotFound`` and ``InvalidInput``.
        """
        request = pb.CreateReviewQueueRequest(
            name=sendable(name),
            run=sendable(run),
            order=wire.order_number(order),
            classes=wire.listed(classes),
            count=count,
            seed=seed,
            reuse=reuse,
        )
        attempts = self._attempts(timeout_s)
        while True:
            try:
                answer = yield Send(self._stub.CreateReviewQueue, request, attempts.left_s())
                return wire.review_queue(answer.queue)
            except grpc.RpcError as failed:
                wait_s = attempts.wait_s(failed)
            request.reuse = True  # the try that failed may have made it
            yield Sleep(wait_s)

    @Unary
    def queue(self, name: str, *, timeout_s: float = CALL_S) -> Plan[ReviewQueue]:
        """How a queue stands."""
        request = pb.GetReviewQueueRequest(name=sendable(name))
        answer = yield from self._answer(self._stub.GetReviewQueue, request, timeout_s)
        return wire.review_queue(answer.queue)

    @Streaming
    def queues(self, *, timeout_s: float = CALL_S) -> StreamPlan[ReviewQueue]:
        """All queues in the order of their names, fetched page by page."""
        return self._listed(
            self._stub.ListReviewQueues,
            pb.ListReviewQueuesRequest(),
            timeout_s,
            lambda page: map(wire.review_queue, page.queues),
        )

    @Unary
    def delete_queue(self, name: str, *, timeout_s: float = CALL_S) -> Plan[None]:
        """Forget a queue; the reviews that were given in it stay. Raises ``NotFound``."""
        request = pb.DeleteReviewQueueRequest(name=sendable(name))
        attempts, wait_s = self._attempts(timeout_s), 0.0
        while True:
            try:
                yield Send(self._stub.DeleteReviewQueue, request, attempts.left_s())
                return
            except grpc.RpcError as failed:
                try:
                    wait_s = attempts.wait_s(failed)
                except NotFound:
                    if wait_s:  # the try before, whose answer was lost, deleted it
                        return
                    raise
            yield Sleep(wait_s)

    @Unary
    def next(
        self,
        queue: str,
        *,
        person: str,
        count: int = 1,
        lease_s: int = 600,
        timeout_s: float = CALL_S,
    ) -> Plan[Sequence[ReviewItem]]:
        """The next boxes to ask ``person`` about, at most ``count`` (1 to 100); none at the end.

        Nobody else gets them for ``lease_s`` seconds. Those that the person has already come
        first, so a program that was stopped goes on where it was.
        """
        request = pb.NextReviewItemsRequest(
            queue=sendable(queue), person=sendable(person), count=count, lease_s=lease_s
        )
        answer = yield from self._answer(self._stub.NextReviewItems, request, timeout_s)
        return [wire.review_item(message) for message in answer.items]

    @Unary
    def image(self, item: ReviewItem, *, timeout_s: float = IMAGE_S) -> Plan[bytes]:
        """The image of a box, as it was given to the server; checked by its hash."""
        request = pb.GetReviewImageRequest(item=item.id)
        answer = yield from self._answer(self._stub.GetReviewImage, request, timeout_s)
        return wire.checked_content(item.image, answer.content)

    @Unary
    def answer(
        self,
        item: ReviewItem,
        answer: ReviewAnswer | str,
        *,
        person: str,
        reason: WrongReason | str | None = None,
        new_class: str = "",
        new_box: tuple[float, float, float, float] | None = None,
        note: str = "",
        mask: Mask | None = None,
        seconds: float = 0.0,
        timeout_s: float = CALL_S,
    ) -> Plan[Review]:
        """Keep what ``person`` says of a box: right, wrong or unsure.

        Of a wrong one ``reason``, and the object's right class and outline, may be said too; a
        ``mask`` of a right box, or as the right outline. ``seconds`` are those that the person
        took. The same answer given twice is one review. Raises ``AlreadyExists`` when the box was
        answered otherwise.
        """
        said = NewReview(
            item.image,
            item.class_name,
            item.box,
            wire.review_answer(answer),
            wire.wrong_reason(reason),
            new_class,
            new_box,
            person,
            note,
            mask,
            seconds,
        )
        request = wire.answer_request(item.id, said)
        kept = yield from self._answer(self._stub.AnswerReviewItem, request, timeout_s)
        return wire.review(kept.review)

    @Unary
    def release(
        self, items: Iterable[ReviewItem], *, person: str, timeout_s: float = CALL_S
    ) -> Plan[None]:
        """Give boxes back that ``person`` will not answer, so that others get them at once."""
        numbers = [item.id for item in items]
        for start in range(0, len(numbers), RELEASED_AT_ONCE):
            some = numbers[start : start + RELEASED_AT_ONCE]
            request = pb.ReleaseReviewItemsRequest(person=sendable(person), items=some)
            yield from self._answer(self._stub.ReleaseReviewItems, request, timeout_s)

    @Unary
    def add(
        self, reviews: Iterable[NewReview], *, timeout_s: float = CALL_S
    ) -> Plan[Sequence[Review]]:
        """Keep reviews that no queue asked for: of a box, of a missing object, of an image.

        Each says who says it. Those of one message (500, or 4 MB) are kept together or not at all.
        A ``Review`` keeps its time, and given again it is kept once.
        """
        return (yield from self.adding(reviews, timeout_s))

    def adding(self, reviews: Iterable[NewReview], timeout_s: float) -> Plan[Sequence[Review]]:
        """``add`` as a part of another plan."""
        now = time.time()  # the same for every try, so that what is sent again is kept once
        said = (
            wire.new_review_message(one, getattr(one, "created_at", 0.0) or now) for one in reviews
        )
        kept: list[Review] = []
        for some in [*_messages([one] for one in said)]:
            request = pb.AddReviewsRequest(reviews=some)
            answer = yield from self._answer(self._stub.AddReviews, request, timeout_s)
            kept += map(wire.review, answer.reviews)
        return kept

    @Unary
    def add_from(
        self, reviews: Iterable[Review], *, timeout_s: float = CALL_S
    ) -> Plan[tuple[int, int]]:
        """Keep reviews of another store as they are: who, when, and what was taken back.

        They are given as ``list`` gave them there. Returns how many (were new, were here already);
        those that are here already are left as they are, so an import may be made again.
        """
        added = known = 0
        groups = (map(wire.review_message, group) for group in _import_groups(reviews))
        for some in _messages(groups):
            request = pb.ImportReviewsRequest(reviews=some)
            answer = yield from self._answer(self._stub.ImportReviews, request, timeout_s)
            added, known = added + answer.added, known + answer.known
        return added, known

    @Unary
    def undo(self, review: int, *, person: str, timeout_s: float = CALL_S) -> Plan[Review]:
        """Take back the review of that number; what is kept of that. Raises ``NotFound``.

        The box of a queue that it answered is asked about again.
        """
        request = pb.UndoReviewRequest(id=review, person=sendable(person))
        answer = yield from self._answer(self._stub.UndoReview, request, timeout_s)
        return wire.review(answer.review)

    @Unary
    def image_names(
        self, sha256s: Iterable[str], *, timeout_s: float = CALL_S
    ) -> Plan[Mapping[str, tuple[str, int, int]]]:
        """(name, width, height) of the images that the server knows, by hash."""
        wanted, found = [*sha256s], dict[str, tuple[str, int, int]]()
        for start in range(0, len(wanted), NAMED_AT_ONCE):
            request = pb.GetImageNamesRequest(sha256=wanted[start : start + NAMED_AT_ONCE])
            answer = yield from self._answer(self._stub.GetImageNames, request, timeout_s)
            found |= {one.sha256: (one.name, one.width, one.height) for one in answer.images}
        return found

    @Streaming
    def list(
        self, *, run: str = "", image: str = "", timeout_s: float = CALL_S
    ) -> StreamPlan[Review]:
        """All reviews, the oldest first, also those that were undone; fetched page by page.

        ``run`` limits them to the images of that run, ``image`` to one image, by its SHA-256.
        """
        return self._listed(
            self._stub.ListReviews,
            pb.ListReviewsRequest(run=sendable(run), image=image),
            timeout_s,
            lambda page: map(wire.review, page.reviews),
        )


def _import_groups(reviews: Iterable[Review]) -> Iterator[Sequence[Review]]:
    """Those that belong into one message: one that was taken back comes with what did that."""
    withdrawn: dict[int, Review] = {}
    for review in reviews:
        if review.undone_by is not None and review.undoes is None:
            withdrawn[review.id] = review
            continue
        before = withdrawn.pop(review.undoes, None) if review.undoes is not None else None
        yield [before, review] if before else [review]
    for review in withdrawn.values():
        yield [review]


def _messages(
    groups: Iterable[Iterable[_Message]], most: int = ADDED_AT_ONCE
) -> Iterator[list[_Message]]:
    """The groups, as many in a list as fit into one message: of ``most``, and ``ADDED_BYTES``."""
    some: list[_Message] = []
    size = 0
    for group in groups:
        more = [*group]
        added = sum(one.ByteSize() for one in more)
        if some and (len(some) + len(more) > most or size + added > ADDED_BYTES):
            yield some
            some, size = [], 0
        some, size = some + more, size + added
    if some:
        yield some


class RemoteReviews(ReviewCalls, Blocking):
    """What people say of the labels of a server with a store; use ``Client.reviews``.

        client.reviews.create_queue("check", "street", count=200)
        while items := client.reviews.next("check", person="ada"):
            for item in items:
                show(item.class_name, item.box, client.reviews.image(item))
                client.reviews.answer(item, "right", person="ada")

    Every call may be made again. Every call raises a ``SecondlookError``: ``NotFound`` for a run,
    queue or review that is not there, ``NotSupported`` from a server without a store.
    """


class AsyncRemoteReviews(ReviewCalls, Awaiting):
    """The same for event loops; use ``AsyncClient.reviews``."""
