"""Reviews of people, and the queues in which people are asked for them.

A review is inserted and never updated or deleted, as long as its image is kept: who takes one back
adds another. An item of a queue is waiting, leased to one person for a while, or answered; its
answer and the review are one transaction.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import accumulate, islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from secondlook.labeling.applied_reviews import find_contradictions
from secondlook.store.database import Database, insert_new, now, sanitize_text
from secondlook.store.runs import load_run
from secondlook.store.schema import (
    decisions,
    images,
    items,
    review_items,
    review_queues,
    reviews,
    runs,
)
from secondlook_client.errors import (
    AlreadyExists,
    InvalidInput,
    LostLease,
    NotFound,
    StoreUnavailable,
)
from secondlook_client.masks import Mask
from secondlook_client.private_files import is_sha256
from secondlook_client.values import (
    MAX_NAME_LENGTH,
    NewReview,
    Outcome,
    Review,
    ReviewAnswer,
    ReviewItem,
    ReviewQueue,
    WrongReason,
)

BATCH = 500
"""Rows a statement: below every database's limit of parameters."""
ITEMS_A_TRANSACTION = 5000
"""Of a queue that is made or deleted: other writers wait no longer than that takes."""
MAX_REVIEWS = 2000
"""Of one image: applying them takes a second or two."""
MAX_MASK_CHARS = 8 * 2**20
"""Of the run-length codes of all masks of one image: they are read together."""
PAGE_MASK_CHARS = 4 * 2**20
"""Of the masks of one page of the history; one review more may come with its own."""
MAX_ADDED = 10_000
"""Reviews in one call of ``add``."""
MAX_LEASED = 1000
"""Items that a person holds at a time."""
MAX_LEASE_S = 86_400.0
LEASE_S = 600.0
_ASKED = (ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE)
"""What an item of a queue is answered with."""
Box = tuple[float, float, float, float]


class ReviewState(IntEnum):
    """How an item of a queue stands."""

    WAITING = 0
    LEASED = 1
    ANSWERED = 2


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One judged box that is to be asked about."""

    cursor: int
    """Of the result, as in ``Result.cursor``."""
    place: int
    """Of the judgement in its result."""
    class_name: str
    box: Box
    """Pixel xyxy."""
    probability: float
    """That the label is right, [0, 1]."""
    outcome: Outcome
    stratum: str = ""
    """What it was drawn from; at most 200 characters."""
    inclusion: float = 1.0
    """The probability with which it was drawn, (0, 1]."""


@dataclass(frozen=True)
class Contradiction:
    """Two people who say the opposite of one box; the newer review counts."""

    image_id: int
    """``contradictions(after=image_id)`` goes on behind it."""
    older: Review
    newer: Review

    def __str__(self) -> str:
        first, second = self.older, self.newer
        return (
            f"{first.person} says '{first.answer.value}' and {second.person} says "
            f"'{second.answer.value}' of the same '{second.class_name}' on the image "
            f"{second.image[:12]}; the newer review, by {second.person}, counts"
        )


class Reviews:
    """What people said, and the queues that ask for it. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: Sequence[NewReview]) -> list[Review]:
        """Store reviews, all or none; they are applied whenever results are read.

        A ``Review`` among them keeps its time: given again with the same, it is stored once. A new
        outline is cut to its image; that of a mask is its tight box. Raises ``InvalidInput`` for
        one that contradicts itself, for a mask of another size than its image, and for more than
        ``MAX_ADDED`` or, of one image, ``MAX_REVIEWS`` or ``MAX_MASK_CHARS``; and ``NotFound`` for
        an image that is not in the store.
        """
        if len(new) > MAX_ADDED:
            raise InvalidInput(f"at most {MAX_ADDED} reviews at a time, got {len(new)}")
        moment = now()
        timed = [(one, getattr(one, "created_at", 0.0) or moment) for one in new]
        with self._database.writing() as connection:
            keys, _ = _insert(connection, timed)
            return _by_key(connection, keys)

    def add_from(self, given: Iterable[Review]) -> tuple[int, int]:
        """Store reviews of another store or file; how many were (new, here already).

        A review that is here already, of the same image, class, box, answer, person and time, is
        left as it is, so that an import that was interrupted is made again. One that takes another
        back finds it by its ``id`` in what was given, which comes first. Each 500 are one
        transaction. Raises as ``add``.
        """
        added = known = 0
        withdrawn: dict[int, bytes] = {}
        source = iter(given)
        while some := list(islice(source, BATCH)):
            new = [one for one in some if one.undoes is None]
            undoing = [one for one in some if one.undoes is not None]
            with self._database.writing() as connection:
                keys, inserted = _insert(connection, [(r, r.created_at or now()) for r in new])
                withdrawn.update(
                    (one.id, key)
                    for one, key in zip(new, keys, strict=True)
                    if one.undone_by is not None
                )
                for one in undoing:
                    before = _withdrawn(connection, one, withdrawn)
                    inserted += before.undone_by is None
                    _undo(connection, before, one)
            added, known = added + inserted, known + len(some) - inserted
        return added, known

    def undo(self, review_id: int, person: str, note: str = "") -> Review:
        """Take a review back: what it said no longer counts. Returns the row that does so, whose
        ``undoes`` is ``review_id``; the one that did it first, where one did.

        The item of a queue that it answered is open again, and leased to ``person``. Raises
        ``NotFound``, and ``InvalidInput`` for a review that itself takes one back.
        """
        with self._database.writing() as connection:
            before = _review_by_id(connection, review_id)
            back = replace(before, person=person, note=note, created_at=now())
            number = _undo(connection, before, back)
            _reopen(connection, review_id, person)
            return _review_by_id(connection, number)

    def get(self, review_id: int) -> Review:
        """The review of that id. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return _review_by_id(connection, review_id)

    def of_image(self, image: str | int) -> list[Review]:
        """Everything that people said of an image, by its sha256 or number, oldest first."""
        with self._database.reading() as connection:
            found = _images(connection, [image]) if isinstance(image, str) else {}
            ids = [row.id for row in found.values()] if isinstance(image, str) else [image]
            return [one for said in reviews_of(connection, ids).values() for one in said]

    def image_names(self, sha256s: Collection[str]) -> dict[str, tuple[str, int, int]]:
        """(Name, width, height) of the images that are here, by sha256; of several names one."""
        found: dict[str, tuple[str, int, int]] = {}
        size = images.c.width, images.c.height
        query = select(images.c.sha256, *size, func.min(items.c.name).label("name")).join(items)
        names = [bytes.fromhex(one) for one in sorted(sha256s) if is_sha256(one)]
        with self._database.reading() as connection:
            for some in _batches(names):
                known = query.where(images.c.sha256.in_(some)).group_by(images.c.sha256, *size)
                for row in connection.execute(known):
                    found[row.sha256.hex()] = row.name, row.width, row.height
        return found

    def history(self, run_id: int | None = None, after: int = 0, limit: int = 200) -> list[Review]:
        """The next reviews behind the id ``after``, oldest first: of images that the run has a
        result of, or of all. Fewer than ``limit`` where their masks are large."""
        chosen = select(reviews.c.id, func.length(reviews.c.mask).label("chars"))
        chosen = chosen.where(reviews.c.id > after).order_by(reviews.c.id).limit(limit)
        if run_id is not None:
            chosen = chosen.where(_of_run(reviews.c.image_id, run_id))
        with self._database.reading() as connection:
            rows = connection.execute(chosen).all()
            before = accumulate((row.chars or 0 for row in rows), initial=0)
            ids = [
                row.id for row, chars in zip(rows, before, strict=False) if chars < PAGE_MASK_CHARS
            ]
            found = _by_id(connection, ids)
        return [found[number] for number in ids]

    def contradictions(
        self, run_id: int | None = None, after: int = 0, limit: int = 200
    ) -> list[Contradiction]:
        """Boxes of which two people say the opposite, on the next ``limit`` images behind the
        number ``after`` that several people reviewed: of a run, or of all."""
        several = (
            select(reviews.c.image_id)
            .where(reviews.c.image_id > after)
            .group_by(reviews.c.image_id)
            .having(func.count(reviews.c.person.distinct()) > 1)
            .order_by(reviews.c.image_id)
        )
        if run_id is not None:
            several = several.where(_of_run(reviews.c.image_id, run_id))
        found: list[Contradiction] = []
        with self._database.reading() as connection:
            while not found:
                numbers = connection.scalars(several.limit(limit)).all()
                said = reviews_of(connection, numbers)
                found = [
                    Contradiction(number, *pair)
                    for number in numbers
                    for pair in find_contradictions(said[number])
                ]
                if len(numbers) < limit:
                    break
                several = several.where(reviews.c.image_id > numbers[-1])
        return found

    def check_free(self, name: str) -> None:
        """Raises ``AlreadyExists`` when the name is taken."""
        with self._database.reading() as connection:
            by_name = select(review_queues.c.id).where(review_queues.c.name == name)
            if connection.execute(by_name).first():
                raise self._taken(connection, name)

    def create_queue(
        self,
        name: str,
        run: str,
        asked: Iterable[QueueItem],
        order: str,
        settings: Mapping[str, Any] | None = None,
    ) -> ReviewQueue:
        """A queue that asks about ``asked``, in this order; any number of items.

        It appears when it is complete. ``settings`` say how the items were chosen. Raises
        ``AlreadyExists``, ``NotFound`` for the run, ``InvalidInput``, what ``asked`` raises, and
        ``StoreUnavailable`` when results were deleted meanwhile.
        """
        check_queue_name(name)
        with self._database.writing() as connection:
            row = {
                "name": name,
                "run_id": load_run(connection, run).id,
                "order": order[:32],
                "settings": json.dumps(dict(settings or {}), sort_keys=True),
                "complete": False,
                "total": 0,
                "answered": 0,
                "created_at": now(),
            }
            if not insert_new(connection, review_queues, [row]):
                raise self._taken(connection, name)
            by_name = select(review_queues.c.id).where(review_queues.c.name == name)
            queue_id = int(connection.execute(by_name).scalar_one())
        try:
            self._fill(queue_id, asked)
        except BaseException:
            self._delete_items(queue_id)
            raise
        return self.queue(name)

    def queue(self, name: str) -> ReviewQueue:
        """How a queue stands. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return _queue(connection, _queue_row(connection, name))

    def queues(self, after: str = "", limit: int = 200) -> list[ReviewQueue]:
        """The next queues by name, behind ``after``."""
        complete = (review_queues.c.complete) & (review_queues.c.name > after)
        query = _SELECT_QUEUES.where(complete).order_by(review_queues.c.name).limit(limit)
        with self._database.reading() as connection:
            return [_queue(connection, row) for row in connection.execute(query).all()]

    def settings(self, name: str) -> dict[str, Any]:
        """How the items of a queue were chosen. Raises ``NotFound``."""
        with self._database.reading() as connection:
            found: dict[str, Any] = json.loads(_queue_row(connection, name).settings)
            return found

    def next(
        self, queue: str, person: str, count: int = 1, lease_s: float = LEASE_S
    ) -> list[ReviewItem]:
        """Up to ``count`` items that are now leased to ``person`` for ``lease_s`` seconds.

        First those that the person holds already, then those whose lease has ended, then those
        that wait; each in the order of the queue. No item is leased to two people at a time.
        Empty when nothing is left to hand out. Raises ``NotFound`` and ``InvalidInput``.
        """
        _check_person(person)
        if not 1 <= count <= MAX_LEASED or not 0 < lease_s <= MAX_LEASE_S:
            raise InvalidInput(
                f"expected 1 to {MAX_LEASED} items for up to {MAX_LEASE_S:.0f} s, got {count} "
                f"for {lease_s:g} s"
            )
        with self._database.writing() as connection:
            row, moment = _queue_row(connection, queue), now()
            about = {"queue": row.id, "person": person, "now": moment}
            ids = [*connection.scalars(_HELD, about | {"count": count})]
            if left := count - len(ids):
                ids += connection.scalars(_WAITING, about | {"count": left})
            lease = {"leased_to": person, "lease_until": moment + lease_s}
            _set_state(connection, ids, ReviewState.LEASED, lease)
            found = connection.execute(_SELECT_ITEMS.where(review_items.c.id.in_(ids)))
            return sorted(map(_item, found), key=lambda item: item.position)

    def item(self, item_id: int) -> ReviewItem:
        """One item of a queue. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return _item_by_id(connection, item_id)

    def items(
        self, queue: str, after: int = 0, limit: int = 200
    ) -> list[tuple[ReviewItem, Review | None]]:
        """The next items of a queue behind the item with the id ``after``, in its order, each
        with its answer; None until there is one. Raises ``NotFound``."""
        with self._database.reading() as connection:
            row = _queue_row(connection, queue)
            of_queue = (review_items.c.queue_id == row.id) & (review_items.c.id > after)
            query = _SELECT_ITEMS.where(of_queue).order_by(review_items.c.id).limit(limit)
            found = [_item(one) for one in connection.execute(query)]
            numbers = [one.review_id for one in found if one.review_id is not None]
            answers = _by_id(connection, numbers)
        return [(one, answers.get(one.review_id or 0)) for one in found]

    def answer(
        self,
        item_id: int,
        person: str,
        answer: ReviewAnswer,
        reason: WrongReason | None = None,
        new_class: str = "",
        new_box: Box | None = None,
        note: str = "",
        *,
        mask: Mask | None = None,
        seconds: float = 0.0,
    ) -> Review:
        """Answer an item of a queue: right, wrong or unsure. The same again gives the same review,
        whatever ``seconds`` it took.

        Raises ``NotFound``, ``InvalidInput``, ``LostLease`` for an item that another person holds,
        and ``AlreadyExists`` for one that was answered otherwise, or by another person.
        """
        if answer not in _ASKED:
            raise InvalidInput(
                f"an item is answered with {', '.join(_ASKED)}; a missing object or a complete "
                "image is a review of its own"
            )
        with self._database.writing() as connection:
            _lock_item(connection, item_id)
            item = _item_by_id(connection, item_id)
            new = NewReview(
                image=item.image,
                class_name=item.class_name,
                box=item.box,
                answer=answer,
                reason=reason,
                new_class=new_class,
                new_box=new_box,
                person=person,
                note=note,
                mask=mask,
                seconds=seconds,
            )
            if item.review_id is not None:
                return _same_answer(connection, item, new)
            if item.leased_to not in ("", person) and item.lease_until > now():
                raise LostLease(
                    f"item {item_id} is with {item.leased_to} now; ask for the next one"
                )
            keys, _ = _insert(connection, [(new, now())])
            (review,) = _by_key(connection, keys)
            done = {"review_id": review.id, "leased_to": person, "lease_until": 0.0}
            _set_state(connection, [item_id], ReviewState.ANSWERED, done)
            _count_answers(connection, item.queue, 1)
            return review

    def release(self, item_ids: Sequence[int], person: str) -> int:
        """Give items back that ``person`` holds; how many there were."""
        given = 0
        with self._database.writing() as connection:
            for some in _batches([number for number in item_ids if 0 < number < 2**63]):
                held = and_(
                    review_items.c.id.in_(some),
                    review_items.c.state == ReviewState.LEASED,
                    review_items.c.leased_to == person,
                )
                free = {"state": ReviewState.WAITING, "leased_to": "", "lease_until": 0.0}
                given += connection.execute(update(review_items).where(held).values(free)).rowcount
        return given

    def delete_queue(self, name: str) -> None:
        """Forget a queue, also one that was never completed; the reviews stay.

        Raises ``NotFound``.
        """
        with self._database.writing() as connection:
            row = _queue_row(connection, name, complete=False)
            hidden = update(review_queues).where(review_queues.c.id == row.id)
            connection.execute(hidden.values(complete=False))
        self._delete_items(row.id)

    def _fill(self, queue_id: int, asked: Iterable[QueueItem]) -> None:
        of_queue, source, total = review_queues.c.id == queue_id, iter(asked), 0
        while some := list(islice(source, ITEMS_A_TRANSACTION)):
            rows = [_item_row(queue_id, total + n, one) for n, one in enumerate(some, 1)]
            total += len(rows)
            with self._database.writing() as connection:
                try:
                    connection.execute(insert(review_items), rows)
                except IntegrityError as failure:
                    raise StoreUnavailable(
                        "results were deleted while the queue was made; make it again"
                    ) from failure
        if not total:
            raise InvalidInput("there is nothing to ask about: no judged box was chosen")
        with self._database.writing() as connection:
            connection.execute(
                update(review_queues).where(of_queue).values(total=total, complete=True)
            )

    def _delete_items(self, queue_id: int) -> None:
        some = select(review_items.c.id).where(review_items.c.queue_id == queue_id)
        gone = ITEMS_A_TRANSACTION
        while gone == ITEMS_A_TRANSACTION:
            with self._database.writing() as connection:
                ids = some.limit(ITEMS_A_TRANSACTION).scalar_subquery()
                gone = connection.execute(
                    delete(review_items).where(review_items.c.id.in_(ids))
                ).rowcount
        with self._database.writing() as connection:
            connection.execute(delete(review_queues).where(review_queues.c.id == queue_id))

    def _taken(self, connection: Connection, name: str) -> AlreadyExists:
        by_name = select(review_queues.c.complete).where(review_queues.c.name == name)
        if connection.execute(by_name).scalar_one():
            return AlreadyExists(f"there is a queue '{name}' already; choose another name")
        return AlreadyExists(
            f"the queue '{name}' is being made, or that was interrupted; wait, choose another "
            "name, or delete it"
        )


def append_to_queue(
    connection: Connection,
    name: str,
    run: str,
    asked: Sequence[QueueItem],
    order: str,
    settings: Mapping[str, Any],
) -> None:
    """Add items to the end of a queue, in a writing transaction that keeps others from doing so;
    the queue is made if there is none. Raises ``AlreadyExists`` for one of other settings."""
    check_queue_name(name)
    told = json.dumps(dict(settings), sort_keys=True)
    row = {"name": name, "run_id": load_run(connection, run).id, "order": order[:32]}
    counts = {"complete": True, "total": 0, "answered": 0, "created_at": now()}
    insert_new(connection, review_queues, [row | counts | {"settings": told}])
    queue = _queue_row(connection, name)
    if queue.settings != told:
        raise AlreadyExists(f"there is another queue '{name}' already; delete it")
    last = select(func.max(review_items.c.position)).where(review_items.c.queue_id == queue.id)
    begin = (connection.execute(last).scalar() or 0) + 1
    if asked:
        rows = [_item_row(queue.id, n, one) for n, one in enumerate(asked, begin)]
        connection.execute(insert(review_items), rows)
        more = {"total": review_queues.c.total + len(rows)}
        connection.execute(update(review_queues).where(review_queues.c.id == queue.id).values(more))


def check_queue_name(name: str) -> None:
    """Raises ``InvalidInput`` for what cannot be the name of a queue."""
    if not name.strip() or len(name) > 200 or sanitize_text(name) != name:
        raise InvalidInput(f"expected a queue's name of 1 to 200 characters, got {name!r:.60}")


def reviews_of(connection: Connection, image_ids: Any) -> dict[int, list[Review]]:
    """By image, oldest first, also those that were taken back; ``image_ids`` is a list of ids or
    a query."""
    found: dict[int, list[Review]] = {}
    query = SELECT_REVIEWS.where(reviews.c.image_id.in_(image_ids)).order_by(reviews.c.id)
    for row in connection.execute(query):
        found.setdefault(row.image_id, []).append(read_review(row))
    return found


def review_key(review: NewReview, created_at: float) -> bytes:
    """16 bytes that are equal for the same review in any store."""
    undoes = getattr(review, "undoes", None) is not None
    box = [float(edge) for edge in review.box] if review.box else None
    said = [
        review.image,
        review.class_name,
        box,
        review.answer.value,
        review.person,
        float(created_at),
        undoes,
    ]
    if review.mask:  # the others have the key that they had before there were masks
        said.append(review.mask.counts)
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()


def forget_review_items(connection: Connection, of_decisions: ColumnElement[bool]) -> None:
    """Delete the items of queues that are about decisions which meet the condition."""
    about = select(decisions.c.id).where(of_decisions).scalar_subquery()
    going = review_items.c.decision_id.in_(about)
    answered = func.count().filter(review_items.c.state == ReviewState.ANSWERED)
    counts = select(review_items.c.queue_id, func.count().label("total"), answered.label("done"))
    rows = connection.execute(counts.where(going).group_by(review_items.c.queue_id)).all()
    connection.execute(delete(review_items).where(going))
    for row in sorted(rows, key=lambda one: one.queue_id):
        fewer = {
            "total": review_queues.c.total - row.total,
            "answered": review_queues.c.answered - row.done,
        }
        connection.execute(
            update(review_queues).where(review_queues.c.id == row.queue_id).values(fewer)
        )


_undoing = reviews.alias("undoing")
SELECT_REVIEWS: Select[Any] = (
    select(reviews, images.c.sha256, _undoing.c.id.label("undone_by"))
    .join(images, images.c.id == reviews.c.image_id)
    .outerjoin(_undoing, _undoing.c.undoes == reviews.c.id)
)
"""What ``read_review`` reads."""
_SELECT_QUEUES: Select[Any] = select(review_queues, runs.c.name.label("run")).join(
    runs, runs.c.id == review_queues.c.run_id
)
_SELECT_ITEMS: Select[Any] = (
    select(
        review_items,
        review_queues.c.name.label("queue"),
        images.c.sha256,
        images.c.width,
        images.c.height,
        items.c.name.label("image_name"),
    )
    .join(review_queues, review_queues.c.id == review_items.c.queue_id)
    .join(decisions, decisions.c.id == review_items.c.decision_id)
    .join(images, images.c.id == decisions.c.image_id)
    .join(items, items.c.id == decisions.c.item_id)
)
"""What ``_item`` reads."""
_over = review_items.c.lease_until <= bindparam("now")
_mine = or_(_over, review_items.c.leased_to == bindparam("person"))
_free = (
    select(review_items.c.id)
    .where(review_items.c.queue_id == bindparam("queue"))
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)  # somebody else is taking it
)
# Statements of ``next``, built once.
_HELD = _free.where(review_items.c.state == ReviewState.LEASED, _mine).order_by(
    case((_over, 1), else_=0), review_items.c.position
)
"""Items that a person holds, then those whose lease is over."""
_WAITING = _free.where(review_items.c.state == ReviewState.WAITING).order_by(
    review_items.c.position
)


def _insert(
    connection: Connection, given: Sequence[tuple[NewReview, float]]
) -> tuple[list[bytes], int]:
    """Insert (review, time), unless they are there; their keys, and how many were new."""
    kept = _images(connection, {one.image for one, _ in given})
    keys: list[bytes] = []
    rows: list[dict[str, Any]] = []
    for one, moment in given:
        one.check()
        if one.image not in kept:
            raise NotFound(
                f"there is no image {one.image} in the store; keep it first, by a job or by "
                "labelling it with `keep`"
            )
        image = kept[one.image]
        new = _cleaned(one, image.width, image.height)
        keys.append(review_key(new, moment))
        rows.append(_row(new, moment) | {"key": keys[-1], "image_id": image.id})
    inserted = sum(insert_new(connection, reviews, some) for some in _batches(rows))
    _check_count(connection, [image.id for image in kept.values()])
    return keys, inserted


def _cleaned(new: NewReview, width: int, height: int) -> NewReview:
    """As it is stored; the size of the image is 0 until it was decoded."""
    drawn, mask = new.answer is ReviewAnswer.MISSING, new.mask
    if mask:
        _check_size(mask, width, height)
    outline = mask.box if mask and new.answer is ReviewAnswer.WRONG else new.new_box
    box = mask.box if mask and drawn else new.box
    return replace(
        new,
        class_name=sanitize_text(new.class_name),
        new_class=sanitize_text(new.new_class),
        person=sanitize_text(new.person),
        note=sanitize_text(new.note),
        box=_clipped(box, width, height) if drawn else box,
        new_box=_clipped(outline, width, height),
    )


def _check_size(mask: Mask, width: int, height: int) -> None:
    if width and height and (mask.width, mask.height) != (width, height):
        raise InvalidInput(
            f"the mask has {mask.width}×{mask.height} pixels and the image {width}×{height}; make "
            "it of the upright image in its full size"
        )


def _clipped(box: Box | None, width: int, height: int) -> Box | None:
    """The part of a drawn outline that is on the image."""
    if box is None or not (width and height):
        return box
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if x2 <= x1 or y2 <= y1:
        raise InvalidInput(f"the outline {box} is not on the image, which has {width}×{height}")
    return float(x1), float(y1), float(x2), float(y2)


def _row(new: NewReview, moment: float) -> dict[str, Any]:
    return {
        "class_name": new.class_name,
        **_corners("", new.box),
        "answer": new.answer.value,
        "reason": new.reason.value if new.reason else "",
        "new_class": new.new_class,
        **_corners("new_", new.new_box),
        "person": new.person,
        "note": new.note,
        "mask": json.dumps(new.mask.to_coco()) if new.mask else None,
        "seconds": new.seconds,
        "undoes": None,
        "created_at": moment,
    }


def _corners(prefix: str, box: Box | None) -> dict[str, float | None]:
    edges = [float(edge) for edge in box] if box else [None] * 4
    return dict(zip((f"{prefix}{edge}" for edge in ("x1", "y1", "x2", "y2")), edges, strict=True))


def _check_count(connection: Connection, image_ids: Sequence[int]) -> None:
    for some in _batches(image_ids):
        counts = select(images.c.sha256).join(reviews).where(images.c.id.in_(some))
        counts = counts.group_by(images.c.sha256).having(func.count() > MAX_REVIEWS)
        for sha256 in connection.scalars(counts):
            raise InvalidInput(
                f"at most {MAX_REVIEWS} reviews of one image are kept, and {sha256.hex()[:12]} "
                "has them"
            )
        chars = select(images.c.sha256).join(reviews).where(images.c.id.in_(some))
        chars = chars.where(reviews.c.undoes.is_(None)).group_by(images.c.sha256)
        chars = chars.having(func.sum(func.length(reviews.c.mask)) > MAX_MASK_CHARS)
        for sha256 in connection.scalars(chars):
            raise InvalidInput(
                f"the masks of one image may take {MAX_MASK_CHARS:,} characters, and those of "
                f"{sha256.hex()[:12]} take them"
            )


def _undo(connection: Connection, before: Review, back: Review) -> int:
    """Insert the row that takes ``before`` back, with who, when and the note of ``back``; its id,
    or that of the one that did it first."""
    if before.undone_by is not None:
        return before.undone_by
    if before.undoes is not None:
        raise InvalidInput(
            f"review {before.id} takes back another one; say again what was said before instead"
        )
    said = replace(
        before,
        person=sanitize_text(back.person),
        note=sanitize_text(back.note),
        seconds=back.seconds,
        undoes=before.id,
        undone_by=None,
    )
    said.check()
    image = _images(connection, [said.image])[said.image]
    row = _row(said, back.created_at) | {"undoes": before.id, "image_id": image.id}
    insert_new(connection, reviews, [row | {"key": review_key(said, back.created_at)}])
    _check_count(connection, [image.id])
    number = connection.execute(select(reviews.c.id).where(reviews.c.undoes == before.id))
    return int(number.scalar_one())


def _withdrawn(connection: Connection, back: Review, keys: Mapping[int, bytes]) -> Review:
    """What a review from elsewhere takes back."""
    key = keys.get(back.undoes or 0)
    if key is None:
        raise InvalidInput(
            f"the review {back.id} takes back {back.undoes}, which does not come before it, or "
            "does not say that it was taken back"
        )
    (before,) = _by_key(connection, [key])
    return before


def _reopen(connection: Connection, review_id: int, person: str) -> None:
    """Let the items that a review answered be asked again."""
    query = select(review_items.c.id, review_queues.c.name.label("queue"))
    query = query.join(review_queues).where(review_items.c.review_id == review_id)
    lease = {"review_id": None, "leased_to": person, "lease_until": now() + LEASE_S}
    for row in connection.execute(query).all():
        _set_state(connection, [row.id], ReviewState.LEASED, lease)
        _count_answers(connection, row.queue, -1)


def _images(connection: Connection, sha256s: Collection[str]) -> dict[str, "Row[Any]"]:
    """(id, width, height) of the images that are there, by sha256; in a writing transaction they
    stay until it has ended."""
    found: dict[str, Any] = {}
    names = sorted(sha256 for sha256 in sha256s if is_sha256(sha256))
    for some in _batches([bytes.fromhex(name) for name in names]):
        query = select(images.c.id, images.c.sha256, images.c.width, images.c.height)
        query = query.where(images.c.sha256.in_(some)).order_by(images.c.id)
        if connection.get_execution_options().get("writing"):
            query = query.with_for_update(read=True, key_share=True)
        found |= {row.sha256.hex(): row for row in connection.execute(query)}
    return found


def _by_key(connection: Connection, keys: Sequence[bytes]) -> list[Review]:
    """The reviews of these keys, in order."""
    found: dict[bytes, Review] = {}
    for some in _batches([*dict.fromkeys(keys)]):
        rows = connection.execute(SELECT_REVIEWS.where(reviews.c.key.in_(some)))
        found.update((row.key, read_review(row)) for row in rows)
    return [found[key] for key in keys]


def _by_id(connection: Connection, ids: Sequence[int]) -> dict[int, Review]:
    found: dict[int, Review] = {}
    for some in _batches(ids):
        rows = connection.execute(SELECT_REVIEWS.where(reviews.c.id.in_(some)))
        found.update((row.id, read_review(row)) for row in rows)
    return found


def _review_by_id(connection: Connection, review_id: int) -> Review:
    found = _by_id(connection, [review_id]) if 0 < review_id < 2**63 else {}
    if review_id not in found:
        raise NotFound(f"there is no review {review_id} in the store")
    return found[review_id]


def read_review(row: "Row[Any]") -> Review:
    """A review from a row of ``SELECT_REVIEWS``."""
    return Review(
        id=row.id,
        image=row.sha256.hex(),
        class_name=row.class_name,
        box=None if row.x1 is None else (row.x1, row.y1, row.x2, row.y2),
        answer=ReviewAnswer(row.answer),
        reason=WrongReason(row.reason) if row.reason else None,
        new_class=row.new_class,
        new_box=None if row.new_x1 is None else (row.new_x1, row.new_y1, row.new_x2, row.new_y2),
        person=row.person,
        note=row.note,
        mask=_read_mask(row.mask),
        seconds=row.seconds or 0.0,
        created_at=row.created_at,
        undone_by=row.undone_by,
        undoes=row.undoes,
    )


def _read_mask(content: str | None) -> Mask | None:
    if content is None:
        return None
    plain = json.loads(content)
    height, width = plain["size"]
    return Mask(width, height, plain["counts"])


def _of_run(image_id: ColumnElement[int], run_id: int) -> ColumnElement[bool]:
    return exists().where(decisions.c.image_id == image_id, decisions.c.run_id == run_id)


def _queue_row(connection: Connection, name: str, complete: bool = True) -> "Row[Any]":
    """Raises ``NotFound``; ``complete`` False: also for one that is being made."""
    row = connection.execute(_SELECT_QUEUES.where(review_queues.c.name == name)).first()
    if row is None or (complete and not row.complete):
        raise NotFound(f"there is no review queue '{name:.200}'; see `secondlook review status`")
    return row


def _queue(connection: Connection, row: "Row[Any]") -> ReviewQueue:
    held = select(func.count()).where(
        review_items.c.queue_id == row.id,
        review_items.c.state == ReviewState.LEASED,
        review_items.c.lease_until > now(),
    )
    leased = int(connection.execute(held).scalar_one())
    values = row._mapping
    return ReviewQueue(
        row.name, row.run, values["order"], row.total, row.answered, leased, row.created_at
    )


def _item_row(queue_id: int, position: int, one: QueueItem) -> dict[str, Any]:
    return {
        "queue_id": queue_id,
        "position": position,
        "decision_id": one.cursor,
        "place": one.place,
        "class_name": one.class_name,
        **_corners("", one.box),
        "probability": one.probability,
        "outcome": one.outcome.value,
        "stratum": one.stratum[:200],
        "inclusion": one.inclusion,
        "state": ReviewState.WAITING,
        "leased_to": "",
        "lease_until": 0.0,
        "review_id": None,
    }


def _item(row: "Row[Any]") -> ReviewItem:
    return ReviewItem(
        id=row.id,
        queue=row.queue,
        position=row.position,
        label_id=f"{row.decision_id}.{row.place}",
        image=row.sha256.hex(),
        image_name=row.image_name,
        width=row.width,
        height=row.height,
        class_name=row.class_name,
        box=(row.x1, row.y1, row.x2, row.y2),
        probability=row.probability,
        outcome=Outcome(row.outcome),
        stratum=row.stratum,
        inclusion=row.inclusion,
        leased_to=row.leased_to if row.state == ReviewState.LEASED else "",
        lease_until=row.lease_until if row.state == ReviewState.LEASED else 0.0,
        review_id=row.review_id,
    )


def _item_by_id(connection: Connection, item_id: int) -> ReviewItem:
    by_id = _SELECT_ITEMS.where(review_items.c.id == (item_id if item_id < 2**63 else 0))
    row = connection.execute(by_id).first()
    if row is None:
        raise NotFound(f"there is no item {item_id} in a review queue; it may have been deleted")
    return _item(row)


def _lock_item(connection: Connection, item_id: int) -> None:
    """Keep others from answering it at the same time."""
    if 0 < item_id < 2**63:
        query = select(review_items.c.id).where(review_items.c.id == item_id)
        connection.execute(query.with_for_update()).all()


def _set_state(
    connection: Connection, ids: Sequence[int], state: ReviewState, values: Mapping[str, Any]
) -> None:
    for some in _batches(ids):
        change = update(review_items).where(review_items.c.id.in_(some))
        connection.execute(change.values(state=state, **values))


def _count_answers(connection: Connection, queue: str, more: int) -> None:
    counting = update(review_queues).where(review_queues.c.name == queue)
    connection.execute(counting.values(answered=review_queues.c.answered + more))


def _same_answer(connection: Connection, item: ReviewItem, new: NewReview) -> Review:
    """The review of an item that was answered already, if it says the same."""
    given = _review_by_id(connection, item.review_id or 0)
    new.check()
    said = ("answer", "reason", "new_class", "new_box", "person", "note", "mask")
    cleaned = _cleaned(new, item.width, item.height)
    if all(getattr(given, name) == getattr(cleaned, name) for name in said):
        return given
    raise AlreadyExists(
        f"item {item.id} was answered '{given.answer.value}' by {given.person}; take the review "
        f"{given.id} back first"
    )


def _check_person(person: str) -> None:
    if not person.strip() or len(person) > MAX_NAME_LENGTH or sanitize_text(person) != person:
        raise InvalidInput(
            f"expected a person of 1 to {MAX_NAME_LENGTH} characters, got {person!r:.60}"
        )


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
