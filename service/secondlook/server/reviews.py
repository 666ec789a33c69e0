"""``ReviewService``: each call is checked, handed to the store, and answered."""

from typing import Any

from secondlook.review.guarantees import (
    certify_guarantee,
    create_guarantee,
    default_calibrator,
    default_name,
)
from secondlook.review.local_reviews import LocalReviews
from secondlook.server.converters import (
    guarantee_progress,
    image_name_message,
    imported_review,
    lease_of,
    new_review,
    review_page,
    review_queue_page,
    review_said,
    wanted_guarantee,
    wanted_order,
)
from secondlook.server.store_calls import StoreServicer, page_of
from secondlook.store import Store
from secondlook_client import wire
from secondlook_client.errors import BadRequest
from secondlook_client.v1 import reviews_pb2 as pb
from secondlook_client.v1 import reviews_pb2_grpc
from secondlook_client.values import Review

THREADS = 8
"""Calls that wait for the store at the same time."""
MAX_REVIEWS, DEFAULT_REVIEWS = 1000, 200
"""Of one page at most, and where the caller asks for no number."""


class ReviewServicer(StoreServicer, reviews_pb2_grpc.ReviewServiceServicer):
    """``ReviewService`` over a store; without one, every call is refused."""

    def __init__(self, store: Store | None) -> None:
        super().__init__(store, "reviews", THREADS)

    @property
    def _reviews(self) -> LocalReviews:
        """Raises ``NotSupported`` where the server has no store."""
        return LocalReviews(self._store)

    async def CreateReviewQueue(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.CreateReviewQueueRequest, context: Any
    ) -> pb.CreateReviewQueueResponse:
        """Choose the boxes of a queue."""
        reviews, order = self._reviews, wanted_order(request.order)
        made = await self._in_thread(
            lambda: reviews.create_queue(
                request.name,
                request.run,
                order=order,
                classes=tuple(request.classes),
                count=request.count,
                seed=request.seed,
                reuse=request.reuse,
            )
        )
        return pb.CreateReviewQueueResponse(queue=wire.write(pb.ReviewQueue, made))

    async def GetReviewQueue(  # noqa: N802
        self, request: pb.GetReviewQueueRequest, context: Any
    ) -> pb.GetReviewQueueResponse:
        """One queue."""
        reviews = self._reviews
        found = await self._in_thread(lambda: reviews.queue(request.name))
        return pb.GetReviewQueueResponse(queue=wire.write(pb.ReviewQueue, found))

    async def ListReviewQueues(  # noqa: N802
        self, request: pb.ListReviewQueuesRequest, context: Any
    ) -> pb.ListReviewQueuesResponse:
        """A page of queues, by name."""
        store, after = self._store, request.page_token
        size, _ = page_of(request.page_size, "", "ListReviewQueues")
        found = await self._in_thread(lambda: store.reviews.queues(after, size + 1))
        return review_queue_page(found, size)

    async def DeleteReviewQueue(  # noqa: N802
        self, request: pb.DeleteReviewQueueRequest, context: Any
    ) -> pb.DeleteReviewQueueResponse:
        """Forget a queue."""
        reviews = self._reviews
        await self._in_thread(lambda: reviews.delete_queue(request.name))
        return pb.DeleteReviewQueueResponse()

    async def NextReviewItems(  # noqa: N802
        self, request: pb.NextReviewItemsRequest, context: Any
    ) -> pb.NextReviewItemsResponse:
        """The next boxes, leased to a person."""
        reviews = self._reviews
        count, lease_s = lease_of(request)
        items = await self._in_thread(
            lambda: reviews.next(request.queue, person=request.person, count=count, lease_s=lease_s)
        )
        return pb.NextReviewItemsResponse(items=map(wire.review_item_message, items))

    async def GetReviewImage(  # noqa: N802
        self, request: pb.GetReviewImageRequest, context: Any
    ) -> pb.GetReviewImageResponse:
        """The image of a box."""
        store, reviews = self._store, self._reviews
        content = await self._in_thread(lambda: reviews.image(store.reviews.item(request.item)))
        return pb.GetReviewImageResponse(content=content)

    async def AnswerReviewItem(  # noqa: N802
        self, request: pb.AnswerReviewItemRequest, context: Any
    ) -> pb.AnswerReviewItemResponse:
        """Keep an answer."""
        store, reviews = self._store, self._reviews

        def answer() -> Review:
            said = review_said(request)  # in the thread, too: a large mask takes a while
            return reviews.answer(
                store.reviews.item(request.item),
                said.answer,
                person=said.person,
                reason=said.reason,
                new_class=said.new_class,
                new_box=said.new_box,
                note=said.note,
                mask=said.mask,
                seconds=said.seconds,
            )

        kept = await self._in_thread(answer)
        return pb.AnswerReviewItemResponse(review=wire.review_message(kept))

    async def ReleaseReviewItems(  # noqa: N802
        self, request: pb.ReleaseReviewItemsRequest, context: Any
    ) -> pb.ReleaseReviewItemsResponse:
        """Give boxes back."""
        store, items, person = self._store, tuple(request.items), request.person
        await self._in_thread(lambda: store.reviews.release(items, person))
        return pb.ReleaseReviewItemsResponse()

    async def AddReviews(  # noqa: N802
        self, request: pb.AddReviewsRequest, context: Any
    ) -> pb.AddReviewsResponse:
        """Keep reviews that no queue asked for."""
        reviews, said = self._reviews, request.reviews
        if not said:
            raise BadRequest("expected one review at least, got none")
        # Read in the thread too: megabytes of masks take a while.
        kept = await self._in_thread(lambda: reviews.add([*map(new_review, said)]))
        return pb.AddReviewsResponse(reviews=map(wire.review_message, kept))

    async def ImportReviews(  # noqa: N802
        self, request: pb.ImportReviewsRequest, context: Any
    ) -> pb.ImportReviewsResponse:
        """Keep reviews of another store."""
        reviews, said = self._reviews, request.reviews
        if not said:
            raise BadRequest("expected one review at least, got none")
        added, known = await self._in_thread(
            lambda: reviews.add_from([*map(imported_review, said)])
        )
        return pb.ImportReviewsResponse(added=added, known=known)

    async def UndoReview(  # noqa: N802
        self, request: pb.UndoReviewRequest, context: Any
    ) -> pb.UndoReviewResponse:
        """Take a review back."""
        reviews = self._reviews
        back = await self._in_thread(lambda: reviews.undo(request.id, person=request.person))
        return pb.UndoReviewResponse(review=wire.review_message(back))

    async def ListReviews(  # noqa: N802
        self, request: pb.ListReviewsRequest, context: Any
    ) -> pb.ListReviewsResponse:
        """A page of reviews, the oldest first."""
        reviews = self._reviews
        size, after = page_of(
            request.page_size, request.page_token, "ListReviews", MAX_REVIEWS, DEFAULT_REVIEWS
        )
        found = await self._in_thread(
            lambda: reviews.page(request.run, request.image, after or 0, size + 1)
        )
        return review_page(found, size)

    async def CreateGuarantee(  # noqa: N802
        self, request: pb.CreateGuaranteeRequest, context: Any
    ) -> pb.CreateGuaranteeResponse:
        """Draw the boxes that a guarantee asks about."""
        store, asked = self._store, wanted_guarantee(request)

        def begun() -> pb.CreateGuaranteeResponse:
            calibrator = default_calibrator(store, store.results.run(asked.run))
            name = request.name or default_name(asked.run, asked)
            status = create_guarantee(store, name, asked, calibrator)
            return pb.CreateGuaranteeResponse(guarantee=guarantee_progress(status))

        return await self._in_thread(begun)

    async def CertifyGuarantee(  # noqa: N802
        self, request: pb.CertifyGuaranteeRequest, context: Any
    ) -> pb.CertifyGuaranteeResponse:
        """Write a certificate."""
        store = self._store
        status = await self._in_thread(lambda: certify_guarantee(store, request.name))
        return pb.CertifyGuaranteeResponse(guarantee=guarantee_progress(status))

    async def GetImageNames(  # noqa: N802
        self, request: pb.GetImageNamesRequest, context: Any
    ) -> pb.GetImageNamesResponse:
        """What images are called."""
        reviews, wanted = self._reviews, tuple(request.sha256)
        found = await self._in_thread(lambda: reviews.image_names(wanted))
        images = (image_name_message(sha256, *about) for sha256, about in found.items())
        return pb.GetImageNamesResponse(images=images)
