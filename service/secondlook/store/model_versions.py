"""Versions of student models: immutable, numbered by name, at most one of each name current.

The last row of a name in ``model_promotions`` says which version is current; rows are only ever
appended, so every change can be traced and rolled back. All writes are idempotent.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from secondlook.detector.manifest import ModelFile, StudentManifest, manifest_text
from secondlook.store.blobs import Blobs
from secondlook.store.database import Database, insert_new, now
from secondlook.store.locks import deletion_blocked
from secondlook.store.schema import model_files, model_promotions, model_versions
from secondlook_client.errors import Busy, Damaged, NotFound

Sign = Callable[[str, str], bytes]
"""Name and digest of a version to its signature, ``core.signing.ModelSigner.sign``."""
PROMOTE, ROLLBACK = "promote", "rollback"
MAX_ATTEMPTS = 20
"""At a version number that no other writer takes at the same time."""
BATCH = 500
"""Hashes a query: below every database's limit of parameters."""


@dataclass(frozen=True)
class StudentVersion:
    """One version of a model."""

    id: int
    name: str
    version: int
    """From 1 for each name."""
    digest: str
    """SHA-256 of ``manifest``, 64 hex digits."""
    manifest: str
    """Its canonical text, see ``detector.manifest``."""
    report: str
    """JSON; empty if not requested, or none was given."""
    snapshot: str
    """Manifest hash of the snapshot that it was trained on; or empty."""
    created_at: float
    """Seconds since 1970."""
    created_by: str
    """Name of the token that added it; empty: without tokens, or before them."""
    signature: bytes
    """See ``core.signing``; empty where the server had no key."""
    files: Mapping[str, ModelFile]
    """By file name."""
    current: bool
    promotion: str
    """Reason of its last promotion, for people; empty if never promoted."""


class ModelVersions:
    """The model versions of one store. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self.sign: Sign | None = None
        """Signs each version that is added or promoted, if there is a key."""

    def add(
        self, name: str, manifest: StudentManifest, report: str = "", created_by: str = ""
    ) -> tuple[StudentVersion, bool]:
        """Add a student, whose files are in the blob store, as the next version of ``name``.

        Also whether the name had it before: the same manifest is the same version. Raises
        ``Damaged`` when a file is not in the blob store, ``Busy`` when others keep adding versions
        or results are being deleted, and what the store raises.
        """
        digest = manifest.digest
        with deletion_blocked(self._database):
            missing = [n for n, f in manifest.files.items() if not self._blobs.has(f.sha256)]
            if missing:
                raise Damaged(f"{missing[0]} of the student was not stored; add the student again")
            for _ in range(MAX_ATTEMPTS):
                with self._database.writing() as connection:
                    known = _row(connection, name, model_versions.c.digest == digest)
                    if known is not None:
                        self._sign(connection, known)
                        return _found(connection, name, known.version), True
                    added = _add(connection, name, manifest, report, created_by)
                    if added is not None:
                        self._sign(connection, added)
                        return _found(connection, name, added.version), False
        raise Busy(f"others keep adding versions of '{name}'; try again in a moment")

    def get(self, name: str, version: int = 0, *, report: bool = False) -> StudentVersion:
        """A version; 0 is the current one. Raises ``NotFound``, which says how to promote."""
        with self._database.reading() as connection:
            return _found(connection, name, version, report)

    def page(
        self, name: str = "", before: int | None = None, limit: int = 50
    ) -> list[StudentVersion]:
        """Versions without reports, newest first; ``before``: last id of the previous page."""
        query = _versions().order_by(model_versions.c.id.desc()).limit(limit)
        if name:
            query = query.where(model_versions.c.name == name)
        if before is not None:
            query = query.where(model_versions.c.id < before)
        with self._database.reading() as connection:
            return [_student(connection, row) for row in connection.execute(query).all()]

    def promote(self, name: str, version: int, reason: str, instead_of: int | None) -> bool:
        """Make a version current, if ``instead_of`` (None: no version) still is.

        False, and nothing is changed, when another version became current meanwhile: the
        comparison that led to the promotion no longer holds. Raises ``NotFound``.
        """
        with self._database.writing() as connection:
            _lock(connection, name)
            wanted = _found(connection, name, version)
            self._sign(connection, wanted)
            current = _current_id(connection, name)
            if current == wanted.id:
                return True
            if current != _id_of(connection, name, instead_of):
                return False
            _append(connection, wanted.id, name, PROMOTE, reason)
            return True

    def rollback(self, name: str, from_version: int = 0) -> StudentVersion:
        """Make the previously current version current again; returns it.

        Nothing changes when the current one is not ``from_version`` (0: any), so a repeated call
        rolls back once. Raises ``NotFound`` when there is no previous one.
        """
        with self._database.writing() as connection:
            _lock(connection, name)
            current = _found(connection, name, 0)
            if from_version and current.version != from_version:
                _found(connection, name, from_version)
                return current
            before = _previous(connection, name)
            if before is None:
                raise NotFound(
                    f"no version of '{name}' was current before version {current.version}; "
                    f"promote another one with `secondlook models promote {name} VERSION`"
                )
            reason = f"rolled back from version {current.version}"
            _append(connection, before, name, ROLLBACK, reason)
            return _found(connection, name, 0)

    def _sign(self, connection: Connection, version: Any) -> None:
        """Sign a row or ``StudentVersion`` anew, if there is a key: it may be another one now."""
        if self.sign is not None:
            signature = self.sign(version.name, version.digest)
            signed = update(model_versions).where(model_versions.c.id == version.id)
            connection.execute(signed.values(signature=signature))

    def file(self, name: str, version: int, file: str) -> ModelFile:
        """Hash and size of a file of a version (0: the current one). Raises ``NotFound``."""
        found = self.get(name, version)
        if file not in found.files:
            raise NotFound(
                f"version {found.version} of '{name}' has no file '{file:.100}', only "
                f"{', '.join(sorted(found.files))}"
            )
        return found.files[file]


def model_blobs(connection: Connection) -> Iterable[str]:
    """Every blob of a model version, each once, in order."""
    query = select(model_files.c.sha256).distinct().order_by(model_files.c.sha256)
    return [sha256.hex() for sha256 in connection.execute(query).scalars()]


def held_by_models(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of the blobs that belong to a model version."""
    held: set[str] = set()
    for start in range(0, len(names), BATCH):
        some = [bytes.fromhex(name) for name in names[start : start + BATCH]]
        query = select(model_files.c.sha256).where(model_files.c.sha256.in_(some))
        held.update(sha256.hex() for sha256 in connection.execute(query).scalars())
    return held


def _add(
    connection: Connection, name: str, manifest: StudentManifest, report: str, created_by: str
) -> "Row[Any] | None":
    """The new row; None when another writer took the number, or added the same student."""
    last = select(func.max(model_versions.c.version)).where(model_versions.c.name == name)
    row = {
        "name": name,
        "version": int(connection.execute(last).scalar() or 0) + 1,
        "digest": manifest.digest,
        "manifest": manifest_text(manifest),
        "report": report,
        "snapshot": manifest.snapshot,
        "created_at": now(),
        "created_by": created_by,
    }
    if not insert_new(connection, model_versions, [row]):
        return None
    added = _row(connection, name, model_versions.c.version == row["version"])
    assert added is not None
    rows = [
        {"model_id": added.id, "name": file, "sha256": bytes.fromhex(f.sha256), "size": f.size}
        for file, f in manifest.files.items()
    ]
    connection.execute(insert(model_files), rows)
    return added


def _versions(report: bool = False) -> Select[Any]:
    left_out = () if report else ("report",)
    return select(*(column for column in model_versions.c if column.name not in left_out))


def _row(
    connection: Connection, name: str, condition: Any, report: bool = False
) -> "Row[Any] | None":
    query = _versions(report).where(model_versions.c.name == name, condition)
    return connection.execute(query).first()


def _found(connection: Connection, name: str, version: int, report: bool = False) -> StudentVersion:
    wanted = model_versions.c.version == version
    if not version:
        wanted = model_versions.c.id == _current_id(connection, name)
    row = _row(connection, name, wanted, report)
    if row is None:
        raise _missing(connection, name, version)
    return _student(connection, row)


def _missing(connection: Connection, name: str, version: int) -> NotFound:
    query = select(func.max(model_versions.c.version)).where(model_versions.c.name == name)
    last = connection.execute(query).scalar()
    if last is None:
        return NotFound(f"there is no model '{name:.200}'; see `secondlook models list`")
    if version:
        return NotFound(f"there is no version {version} of '{name}'; the last one is {last}")
    return NotFound(
        f"no version of '{name}' is promoted yet; `secondlook models promote {name} {last}` "
        "makes the newest the current one"
    )


def _student(connection: Connection, row: "Row[Any]") -> StudentVersion:
    promotions = (
        select(model_promotions.c.reason)
        .where(model_promotions.c.model_id == row.id)
        .order_by(model_promotions.c.id.desc())
        .limit(1)
    )
    files = select(model_files).where(model_files.c.model_id == row.id).order_by(model_files.c.name)
    return StudentVersion(
        id=row.id,
        name=row.name,
        version=row.version,
        digest=row.digest,
        manifest=row.manifest,
        report=getattr(row, "report", ""),
        snapshot=row.snapshot,
        created_at=row.created_at,
        created_by=row.created_by,
        signature=bytes(row.signature or b""),
        files={f.name: ModelFile(f.sha256.hex(), f.size) for f in connection.execute(files)},
        current=row.id == _current_id(connection, row.name),
        promotion=connection.execute(promotions).scalar() or "",
    )


def _current_id(connection: Connection, name: str) -> int | None:
    query = select(model_promotions.c.model_id).where(model_promotions.c.name == name)
    return connection.execute(query.order_by(model_promotions.c.id.desc()).limit(1)).scalar()


def _id_of(connection: Connection, name: str, version: int | None) -> int | None:
    if version is None:
        return None
    query = select(model_versions.c.id).where(model_versions.c.name == name)
    return connection.execute(query.where(model_versions.c.version == version)).scalar()


def _previous(connection: Connection, name: str) -> int | None:
    """The previously current version: each rollback undoes one promotion."""
    query = select(model_promotions.c.model_id, model_promotions.c.kind)
    stack: list[int] = []
    for row in connection.execute(
        query.where(model_promotions.c.name == name).order_by(model_promotions.c.id)
    ):
        if row.kind != ROLLBACK:
            stack.append(row.model_id)
        elif stack:
            stack.pop()
    return stack[-2] if len(stack) > 1 else None


def _lock(connection: Connection, name: str) -> None:
    """Serialize changes of the current version of a name."""
    rows = select(model_versions.c.id).where(model_versions.c.name == name)
    connection.execute(rows.order_by(model_versions.c.id).with_for_update()).all()


def _append(connection: Connection, model_id: int, name: str, kind: str, reason: str) -> None:
    row = {"model_id": model_id, "name": name, "kind": kind, "reason": reason, "created_at": now()}
    connection.execute(insert(model_promotions), [row])
