"""Queues and reviews over a store: what a service answers with, and a command without a service."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from secondlook.store import Store
from secondlook.store.reviews import check_queue_name
from secondlook.store.uncertainties import uncertainties_at
from secondlook_client.errors import AlreadyExists, InvalidInput, NotFound
from secondlook_client.masks import Mask
from secondlook_client.uncertainties import UncertaintyMethod
from secondlook_client.values import (
    Judgement,
    NewReview,
    Review,
    ReviewAnswer,
    ReviewItem,
    ReviewOrder,
    ReviewQueue,
    WrongReason,
)

PAGE = 200
"""Rows read at a time."""


class LocalReviews:
    """The methods of ``client.reviews``, for a store that this process has open. Thread-safe.

    They raise what the client raises for the same: ``NotFound``, ``InvalidInput``,
    ``AlreadyExists``, ``LostLease``.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

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
    ) -> ReviewQueue:
        """Choose up to ``count`` boxes of a run (0: all) to ask people about.

        With ``reuse`` a queue of this name that was made with the same choices is given back.
        """
        from secondlook.review.queue_order import queue_items, used_order

        settings = {"classes": sorted(set(classes)), "count": count, "seed": seed}
        wanted = ReviewOrder(order)
        # Whatever can be said of the name is said before the whole run is read.
        check_queue_name(name)
        if not reuse:
            self.store.reviews.check_free(name)
        elif known := self._same_queue(name, run, wanted, settings):
            return known
        used = used_order(self.store, run, wanted)
        asked = queue_items(self.store, run, used, classes=classes, count=count, seed=seed)
        try:
            return self.store.reviews.create_queue(name, run, asked, used.value, settings)
        except AlreadyExists:  # another call was faster
            if reuse and (known := self._same_queue(name, run, wanted, settings)):
                return known
            raise

    def _same_queue(
        self, name: str, run: str, order: ReviewOrder, settings: dict[str, object]
    ) -> ReviewQueue | None:
        """The queue of that name; None where there is none. Raises ``AlreadyExists`` for one that
        was made otherwise."""
        try:
            found = self.store.reviews.queue(name)
        except NotFound:
            return None
        made_with = self.store.reviews.settings(name)
        orders = (order, *UncertaintyMethod) if order is ReviewOrder.UNCERTAINTY else (order,)
        if found.order in orders and (found.run, made_with) == (run, settings):
            return found
        raise AlreadyExists(
            f"there is a queue '{name}' already, of another run or with other choices; choose "
            "another name"
        )

    def queue(self, name: str) -> ReviewQueue:
        """How a queue stands."""
        return self.store.reviews.queue(name)

    def queues(self) -> Iterator[ReviewQueue]:
        """All queues in the order of their names."""
        after = ""
        while page := self.store.reviews.queues(after, PAGE):
            yield from page
            after = page[-1].name

    def delete_queue(self, name: str) -> None:
        """Forget a queue; the reviews that were given in it stay."""
        self.store.reviews.delete_queue(name)

    def next(
        self, queue: str, *, person: str, count: int = 1, lease_s: int = 600
    ) -> list[ReviewItem]:
        """The next boxes to ask ``person`` about, each with what was judged on its image."""
        items = self.store.reviews.next(queue, person, count, lease_s)
        cursors = sorted({_cursor(item) for item in items})
        judged = {cursor: self._judged(cursor) for cursor in cursors}
        measured = self.store.uncertainties.of_results(cursors)
        return [
            replace(
                item,
                judgements=judged[_cursor(item)],
                uncertainties=uncertainties_at(measured[_cursor(item)], item.place),
            )
            for item in items
        ]

    def _judged(self, cursor: int) -> tuple[Judgement, ...]:
        with suppress(NotFound):  # the run's results were removed meanwhile
            return self.store.results.decided(cursor).labelled.judgements
        return ()

    def image(self, item: ReviewItem) -> bytes:
        """The image of a box, as it was given to the store. Raises ``Damaged`` too."""
        return self.store.blobs.get(item.image)

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
    ) -> Review:
        """Keep what ``person`` says of a box, in ``seconds``: right, wrong or unsure.

        ``new_class`` is one of the run's classes, or it is refused.
        """
        if new_class:
            self._check_class(item, new_class)
        why = WrongReason(reason) if reason else None
        return self.store.reviews.answer(
            item.id,
            person,
            ReviewAnswer(answer),
            why,
            new_class,
            new_box,
            note,
            mask=mask,
            seconds=seconds,
        )

    def _check_class(self, item: ReviewItem, class_name: str) -> None:
        names = self.store.results.run(self.store.reviews.queue(item.queue).run).ontology.names
        if class_name not in names:
            raise InvalidInput(
                f"the run does not label '{class_name:.60}', only {', '.join(names)[:500]}"
            )

    def release(self, items: Iterable[ReviewItem], *, person: str) -> None:
        """Give boxes back that ``person`` will not answer."""
        self.store.reviews.release([item.id for item in items], person)

    def add(self, reviews: Iterable[NewReview]) -> Sequence[Review]:
        """Keep reviews that no queue asked for."""
        return self.store.reviews.add([*reviews])

    def add_from(self, reviews: Iterable[Review]) -> tuple[int, int]:
        """Keep reviews of another store as they are; how many (were new, were here already)."""
        return self.store.reviews.add_from(reviews)

    def undo(self, review: int, *, person: str) -> Review:
        """Take the review of that number back."""
        return self.store.reviews.undo(review, person)

    def list(self, *, run: str = "", image: str = "") -> Iterator[Review]:
        """All reviews, the oldest first; of a run's images or of one image, unless empty."""
        after = 0
        while page := self.page(run, image, after, PAGE):
            yield from page
            after = page[-1].id

    def image_names(self, sha256s: Iterable[str]) -> dict[str, tuple[str, int, int]]:
        """(name, width, height) of the images that are known, by hash."""
        return self.store.reviews.image_names([*sha256s])

    def page(self, run: str, image: str, after: int, limit: int) -> Sequence[Review]:
        """The next reviews behind the id ``after``, at most ``limit``."""
        if run and image:
            raise InvalidInput("give a run or an image, not both")
        if image:
            of_image = (one for one in self.store.reviews.of_image(image) if one.id > after)
            return [*of_image][:limit]
        run_id = self.store.results.run(run).id if run else None
        return self.store.reviews.history(run_id, after, limit)


def _cursor(item: ReviewItem) -> int:
    """Of the result that has the box."""
    return int(item.label_id.partition(".")[0])
