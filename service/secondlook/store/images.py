"""Images by content: one row each, however many runs and names refer to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, bindparam, select, update

from secondlook.core.images import suffix_of
from secondlook.store.database import insert_new, now
from secondlook.store.schema import images

BATCH = 500
"""Hashes a query: below every database's limit of parameters."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image whose bytes are in the blob store."""

    sha256: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""
    format: str
    """File suffix without the dot, e.g. ``jpg``; empty when unknown."""

    @classmethod
    def of(cls, sha256: str, content: bytes) -> Self:
        """The image with the bytes ``content``, whose sha256 is known."""
        return cls(sha256, len(content), suffix_of(content))


def add_images(connection: Connection, found: Iterable[NewImage]) -> dict[str, int]:
    """Insert images that are new; ids of all of them by sha256.

    Their bytes must be in the blob store already: a row promises that they are there. The rows
    are locked against deletion until the transaction ends, so references to them belong in it.
    """
    # In a fixed order, so that two servers that add the same ones never deadlock.
    missing = sorted(found, key=lambda image: image.sha256)
    ids: dict[str, int] = {}
    while missing:  # once, unless one was deleted between the two statements
        insert_new(connection, images, [_row(image) for image in missing])
        ids |= image_ids(connection, {image.sha256 for image in missing}, lock=True)
        missing = [image for image in missing if image.sha256 not in ids]
    return ids


def image_ids(
    connection: Connection, sha256s: Iterable[str], *, lock: bool = False
) -> dict[str, int]:
    """Ids by sha256 of the images that are in the store.

    ``lock`` protects them from deletion until the transaction, a writing one, ends.
    """
    digests = sorted(bytes.fromhex(sha256) for sha256 in sha256s)
    ids: dict[str, int] = {}
    for start in range(0, len(digests), BATCH):
        wanted = {"wanted": digests[start : start + BATCH]}
        found = connection.execute(_LOCKED_IDS if lock else _IDS, wanted)
        ids.update((digest.hex(), number) for digest, number in found)
    return ids


_IDS = select(images.c.sha256, images.c.id).where(
    images.c.sha256.in_(bindparam("wanted", expanding=True))
)
# Locked in a fixed order, too; SQLite has one writer and ignores it.
_LOCKED_IDS = _IDS.order_by(images.c.sha256).with_for_update(read=True, key_share=True)


def _row(image: NewImage) -> dict[str, Any]:
    return {
        "sha256": bytes.fromhex(image.sha256),
        "size": image.size,
        "width": 0,
        "height": 0,
        "format": image.format[:16].lower(),
        "perceptual_hash": None,
        "added_at": now(),
    }


@dataclass(frozen=True, slots=True)
class ImageMeasurement:
    """What is known of an image once it was decoded."""

    image_id: int
    width: int
    """Pixels, upright."""
    height: int
    perceptual_hash: int
    """Difference hash, signed 64 bits."""


def measure_images(connection: Connection, found: Iterable[ImageMeasurement]) -> None:
    """Store sizes and hashes, the first time only: equal bytes decode to equal pixels."""
    rows = [
        {"image": one.image_id, "w": one.width, "h": one.height, "hash": one.perceptual_hash}
        for one in sorted(found, key=lambda one: one.image_id)
    ]
    if rows:
        connection.execute(
            update(images)
            .where(images.c.id == bindparam("image"), images.c.width == 0)
            .values(width=bindparam("w"), height=bindparam("h"), perceptual_hash=bindparam("hash")),
            rows,
        )
