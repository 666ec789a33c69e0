"""Is every student whole: its manifest, its files, and what was promoted?"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from secondlook.detector.manifest import ModelFile, manifest_text, parse_manifest
from secondlook.errors import Damaged, NotFound
from secondlook.store.blobs import Blobs
from secondlook.store.finding import RESTORE, Checked, Finding, pages
from secondlook.store.tables import model_files, model_promotions, model_versions

ADD_AGAIN = "add the student again with `secondlook models add`, or " + RESTORE


def check_students(
    connection: Connection, blobs: Blobs, checked: Checked, content: bool
) -> Iterator[Finding]:
    """What is wrong with the students; ``content`` False only looks whether files are there."""
    for page in pages(connection, select(model_versions), model_versions.c.id):
        for row in page:
            subject = f"version {row.version} of model {row.name}"
            of_row = select(model_files).where(model_files.c.model_id == row.id)
            files = {
                file.name: ModelFile(file.sha256.hex(), file.size)
                for file in connection.execute(of_row.order_by(model_files.c.name))
            }
            for problem in _wrong_with(row, files):
                yield Finding(subject, problem, RESTORE)
            for name, file in files.items():
                checked.blobs += 1
                if problem := _wrong_with_file(blobs, file, content):
                    yield Finding(f"{name} of {subject}", problem, ADD_AGAIN)
    mixed = (
        select(model_promotions.c.id)
        .join(model_versions, model_versions.c.id == model_promotions.c.model_id)
        .where(model_versions.c.name != model_promotions.c.name)
    )
    for number in connection.execute(mixed).scalars():
        yield Finding(f"promotion {number}", "is of a version of another model", RESTORE)


def _wrong_with(row: "Row[Any]", files: dict[str, ModelFile]) -> Iterator[str]:
    try:
        manifest = parse_manifest(row.manifest)
    except Damaged as failure:
        yield str(failure)
        return
    if manifest.digest != row.digest or manifest_text(manifest) != row.manifest:
        yield "its manifest has changed since it was kept"
    if dict(manifest.files) != files:
        yield f"its manifest names {len(manifest.files)} files, and others are kept"


def _wrong_with_file(blobs: Blobs, file: ModelFile, content: bool) -> str:
    if not content:
        return "" if blobs.has(file.sha256) else "its bytes are gone"
    try:
        size = len(blobs.get(file.sha256))
    except NotFound:
        return "its bytes are gone"
    except Damaged:
        return "its bytes no longer match their hash"
    return "" if size == file.size else f"its row says {file.size} bytes and there are {size}"
