"""Snapshots: named manifests of datasets, which protect their images from deletion."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select

from secondlook.core.cancellation import check_cancelled
from secondlook.store.blobs import Blobs
from secondlook.store.database import Database, insert_new, now
from secondlook.store.runs import Run, load_run_by_id, load_runs, source_run
from secondlook.store.schema import images, items, ontologies, runs, snapshot_images, snapshots
from secondlook_client.errors import AlreadyExists, Damaged, NotFound, StoreUnavailable

BATCH = 500
"""Rows a statement: below every database's limit of parameters."""


@dataclass(frozen=True)
class SnapshotRow:
    """A named manifest; immutable."""

    id: int
    name: str
    manifest: str
    """sha256 of the manifest's root; equal for equal content."""
    query: str
    """JSON, see ``datasets.query``."""
    statistics: Mapping[str, Any]
    """See ``datasets.snapshot``."""
    images: int
    created_at: float
    """Seconds since 1970."""
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the store knows about an image besides its labels."""

    size: int
    """Bytes."""
    perceptual_hash: int | None
    """Difference hash; None if it was never decoded."""


class Snapshots:
    """The snapshots of one store. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def add(
        self,
        name: str,
        manifest: str,
        query: str,
        statistics: Mapping[str, Any],
        image_ids: Sequence[int],
        created_by: str = "",
    ) -> SnapshotRow:
        """Name a manifest, whose blobs are stored, and protect its images from deletion.

        Raises ``AlreadyExists`` when the name is taken, and ``StoreUnavailable`` when one of the
        images was deleted meanwhile.
        """
        with self._database.writing() as connection:
            row = {
                "name": name,
                "manifest": manifest,
                "query": query,
                "statistics": json.dumps(statistics, sort_keys=True),
                "images": len(image_ids),
                "created_at": now(),
                "created_by": created_by,
            }
            if not insert_new(connection, snapshots, [row]):
                raise _taken(name)
            added = connection.execute(select(snapshots).where(snapshots.c.name == name)).one()
            ids = sorted(image_ids)
            for start in range(0, len(ids), BATCH):
                check_cancelled()
                some = ids[start : start + BATCH]
                present = (
                    select(images.c.id)
                    .where(images.c.id.in_(some))
                    .with_for_update(read=True, key_share=True)
                )
                if len(connection.execute(present).all()) < len(some):
                    raise StoreUnavailable(
                        "an image was deleted while the snapshot was made; make it again"
                    )
                rows = [{"snapshot_id": added.id, "image_id": number} for number in some]
                connection.execute(insert(snapshot_images), rows)
            return _snapshot(added)

    def get(self, name: str) -> SnapshotRow:
        """The snapshot of that name. Raises ``NotFound``."""
        with self._database.reading() as connection:
            row = connection.execute(select(snapshots).where(snapshots.c.name == name)).first()
        if row is None:
            raise NotFound(f"there is no snapshot '{name:.200}'; see `secondlook snapshot list`")
        return _snapshot(row)

    def with_manifest(self, manifest: str) -> SnapshotRow | None:
        """The newest snapshot with exactly this content; None when there is none."""
        query = select(snapshots).where(snapshots.c.manifest == manifest)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(snapshots.c.id.desc()).limit(1)).first()
        return _snapshot(row) if row else None

    def check_free(self, name: str) -> None:
        """Raises ``AlreadyExists`` when the name is taken."""
        with self._database.reading() as connection:
            if connection.execute(select(snapshots.c.id).where(snapshots.c.name == name)).first():
                raise _taken(name)

    def page(self, before: int | None = None, limit: int = 50) -> list[SnapshotRow]:
        """Newest first; ``before`` is the last id of the previous page."""
        query = select(snapshots).order_by(snapshots.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(snapshots.c.id < before)
        with self._database.reading() as connection:
            return [_snapshot(row) for row in connection.execute(query)]

    def remove(self, name: str) -> None:
        """Delete a snapshot: the name is free again, and its images may be deleted.

        Raises ``NotFound``.
        """
        number = self.get(name).id
        with self._database.writing() as connection:
            held = snapshot_images.c.snapshot_id == number
            connection.execute(delete(snapshot_images).where(held))
            connection.execute(delete(snapshots).where(snapshots.c.id == number))

    def holds(self, name: str, sha256s: Sequence[str]) -> bool:
        """Whether all of these images (at most 500) are in the snapshot."""
        wanted = {bytes.fromhex(sha256) for sha256 in sha256s}
        query = (
            select(images.c.id)
            .join(snapshot_images, snapshot_images.c.image_id == images.c.id)
            .join(snapshots, snapshots.c.id == snapshot_images.c.snapshot_id)
            .where(snapshots.c.name == name, images.c.sha256.in_(wanted))
        )
        with self._database.reading() as connection:
            return len(connection.execute(query).all()) == len(wanted)

    def facts(self, image_ids: Iterable[int]) -> dict[int, ImageFacts]:
        """Size and perceptual hash of at most 500 images, by id."""
        columns = select(images.c.id, images.c.size, images.c.perceptual_hash)
        with self._database.reading() as connection:
            rows = connection.execute(columns.where(images.c.id.in_(set(image_ids))))
            return {row.id: ImageFacts(row.size, row.perceptual_hash) for row in rows}

    def runs(self, names: Sequence[str], ontology: str) -> list[Run]:
        """The named runs, in order; without names all with that ontology digest, oldest first.

        Raises ``NotFound``.
        """
        with self._database.reading() as connection:
            if names:
                return load_runs(connection, names)
            ids = (
                select(runs.c.id)
                .join(ontologies, ontologies.c.id == runs.c.ontology_id)
                .where(ontologies.c.digest == ontology)
                .order_by(runs.c.id)
            )
            found = [load_run_by_id(connection, number) for (number,) in connection.execute(ids)]
        if not found:
            raise NotFound(f"no run in the store has the ontology {ontology}")
        return found

    def items(self, run: Run) -> list[tuple[int, str]]:
        """(id, name) of every item of the run, labelled or not, in the order of arrival."""
        query = select(items.c.id, items.c.name).where(items.c.run_id == run.id)
        with self._database.reading() as connection:
            return [(row.id, row.name) for row in connection.execute(query.order_by(items.c.id))]

    def labelled_by(self, run: Run) -> Run:
        """See ``runs.source_run``."""
        with self._database.reading() as connection:
            return source_run(connection, run)


def manifest_blobs(blobs: Blobs, manifest: str) -> Iterator[str]:
    """Every blob of a manifest: its root, then its parts.

    Raises ``NotFound``, ``Damaged`` and ``StoreUnavailable`` when the root cannot be read.
    """
    yield manifest
    content = blobs.get(manifest)
    try:
        parts = [str(part["sha256"]) for part in json.loads(content)["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as failure:
        raise Damaged(f"blob {manifest[:12]} is no manifest of a snapshot") from failure
    yield from parts


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"there is a snapshot '{name}' already, and a snapshot never changes; choose another name"
    )


def _snapshot(row: "Row[Any]") -> SnapshotRow:
    return SnapshotRow(
        id=row.id,
        name=row.name,
        manifest=row.manifest,
        query=row.query,
        statistics=json.loads(row.statistics),
        images=row.images,
        created_at=row.created_at,
        created_by=row.created_by,
    )
