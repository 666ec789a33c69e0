"""Embeddings of images and of boxes, kept once for each model.

One row for an image, or for a box of it, and a model: the unit vector as little-endian float16,
which moves a similarity by about 1e-4. Vectors of several models stand beside each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select

from secondlook.core.boxes import Xyxy
from secondlook.store.database import Database, now
from secondlook.store.ontologies import text_id
from secondlook.store.schema import embeddings, images, texts
from secondlook_client.errors import Damaged

BATCH = 500
"""Images a statement: below every database's limit of parameters."""
PAGE = 2000
"""Vectors read at a time."""
MAX_DIMENSIONS = 16_384
WHOLE = b""
"""What stands where the box of a vector does, when it is of the whole image."""
LENGTH_ERROR = 0.01
"""By how much the length of a stored vector may differ from 1."""
_BOX, _VECTOR = np.dtype("<f4"), np.dtype("<f2")


@dataclass(frozen=True)
class EmbeddedPlace:
    """What a vector is of: an image of the store, or a box of it."""

    image_id: int
    box: Xyxy | None = None
    """Pixel xyxy, as float32; None: the whole image."""


@dataclass(frozen=True)
class EmbeddingModel:
    """A model whose vectors the store has."""

    name: str
    """``name@digest``."""
    vectors: int
    """Of images and of boxes."""


class Embeddings:
    """The embeddings of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, model: str, found: Mapping[EmbeddedPlace, NDArray[np.floating]]) -> None:
        """Keep vectors of ``model`` (``name@digest``), instead of those of before.

        Of an image that was deleted meanwhile nothing is kept.
        """
        wanted = sorted({place.image_id for place in found})
        with self._database.writing() as connection:
            there: set[int] = set()
            for at in range(0, len(wanted), BATCH):
                some = images.c.id.in_(wanted[at : at + BATCH])
                # Until the transaction ends nobody deletes them: PostgreSQL would refuse our rows.
                locked = select(images.c.id).where(some).order_by(images.c.id)
                shared = locked.with_for_update(read=True, key_share=True)
                there.update(connection.scalars(shared))
            if not there:
                return
            model_id = text_id(connection, model)
            rows = [
                {
                    "image_id": place.image_id,
                    "model_id": model_id,
                    "box": pack_box(place.box),
                    "vector": pack_vector(vector),
                    "created_at": now(),
                }
                for place, vector in found.items()
                if place.image_id in there
            ]
            connection.execute(_DELETE_ONE, [_named(row) for row in rows])
            connection.execute(insert(embeddings), rows)

    def of_images(
        self, model: str, image_ids: Sequence[int], *, boxes: bool = False
    ) -> dict[EmbeddedPlace, NDArray[np.float32]]:
        """The vectors of images by ``model``, or of their ``boxes``, as far as they are kept.

        Raises ``Damaged``.
        """
        of_model = _of_model(model)
        kind = embeddings.c.box != WHOLE if boxes else embeddings.c.box == WHOLE
        query = select(embeddings.c.image_id, embeddings.c.box, embeddings.c.vector)
        found: dict[EmbeddedPlace, NDArray[np.float32]] = {}
        with self._database.reading() as connection:
            for at in range(0, len(image_ids), BATCH):
                some = embeddings.c.image_id.in_([*image_ids[at : at + BATCH]])
                for row in connection.execute(query.where(of_model, kind, some)):
                    place = EmbeddedPlace(row.image_id, unpack_box(row.box))
                    found[place] = unpack_vector(row.vector)
        return found

    def pages(
        self, model: str, limit: int = PAGE
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All whole images of ``model``, page by page: (N,) image ids and (N, D) vectors.

        Raises ``Damaged``.
        """
        after = 0
        query = select(embeddings.c.id, embeddings.c.image_id, embeddings.c.vector)
        query = query.where(_of_model(model), embeddings.c.box == WHOLE).order_by(embeddings.c.id)
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(query.where(embeddings.c.id > after).limit(limit)).all()
            if not rows:
                return
            after = rows[-1].id
            ids = np.array([row.image_id for row in rows], np.int64)
            yield ids, np.stack([unpack_vector(row.vector) for row in rows])

    def models(self) -> list[EmbeddingModel]:
        """Whose vectors there are, the one with most of them first."""
        counted = func.count().label("vectors")
        query = (
            select(texts.c.text, counted)
            .join(embeddings, embeddings.c.model_id == texts.c.id)
            .group_by(texts.c.id, texts.c.text)
            .order_by(counted.desc(), texts.c.text)
        )
        with self._database.reading() as connection:
            return [EmbeddingModel(name, int(count)) for name, count in connection.execute(query)]


_KEY = ("image_id", "model_id", "box")
_DELETE_ONE = delete(embeddings).where(
    *(embeddings.c[name] == bindparam(f"old_{name}") for name in _KEY)
)


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of ``_DELETE_ONE``."""
    return {f"old_{name}": row[name] for name in _KEY}


def _of_model(model: str) -> ColumnElement[bool]:
    named = select(texts.c.id).where(texts.c.text == model)
    return embeddings.c.model_id.in_(named)


def pack_box(box: Xyxy | None) -> bytes:
    """Four little-endian float32; ``WHOLE`` for None."""
    return WHOLE if box is None else np.array(box, _BOX).tobytes()


def unpack_box(content: bytes) -> Xyxy | None:
    """The inverse of ``pack_box``. Raises ``Damaged``."""
    if content == WHOLE:
        return None
    if len(content) != 4 * _BOX.itemsize or not np.isfinite(np.frombuffer(content, _BOX)).all():
        raise Damaged("the box of an embedding cannot be read")
    x1, y1, x2, y2 = np.frombuffer(content, _BOX).tolist()
    return x1, y1, x2, y2


def pack_vector(vector: NDArray[np.floating]) -> bytes:
    """A unit vector, (D,), as little-endian float16."""
    if vector.ndim != 1 or not 0 < len(vector) <= MAX_DIMENSIONS:
        raise ValueError(f"expected a vector of 1 to {MAX_DIMENSIONS} numbers, got {vector.shape}")
    return vector.astype(_VECTOR).tobytes()


def unpack_vector(content: bytes) -> NDArray[np.float32]:
    """(D,) float32, the inverse of ``pack_vector``. Raises ``Damaged``."""
    if not content or len(content) % _VECTOR.itemsize:
        raise Damaged(f"an embedding has {len(content)} bytes, which is no number of float16")
    vector = np.frombuffer(content, _VECTOR).astype(np.float32)
    length = np.linalg.norm(vector)
    if not abs(length - 1) < LENGTH_ERROR:  # NaN, too
        raise Damaged("an embedding is not of length 1")
    return np.asarray(vector / length, np.float32)
