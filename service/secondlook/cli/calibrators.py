"""The calibrator that a setting or flag names: embedded, in a file, or in a store."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook_client.errors import BadSetting, NotFound

if TYPE_CHECKING:
    from secondlook.config.settings import Settings
    from secondlook.labeling.calibrator import Calibrator
    from secondlook.labeling.pipeline import Pipeline
    from secondlook.store import Store

NONE = "none"
"""What names no calibrator."""


def pipeline_calibrator(
    settings: "Settings", pipeline: "Pipeline", store: "Store | None"
) -> "Calibrator | None":
    """What the setting ``calibrator`` names for the models of ``pipeline``; None: none.

    Raises ``BadSetting``, ``NotFound``, ``InvalidInput`` and ``Damaged``.
    """
    from secondlook.labeling.pipeline import AUTO

    named = settings.pipeline.calibrator
    if named == NONE:
        return None
    if named == AUTO:
        return _embedded(pipeline)
    if store or _is_file(named) or not settings.store.given:
        return find_calibrator(named, store)
    from secondlook.store import open_store

    place = settings.store
    with open_store(Path(place.data), place.database_url, place.blob_url) as opened:
        return find_calibrator(named, opened)


def find_calibrator(named: str, store: "Store | None") -> "Calibrator":
    """The calibrator in the file of that path, or of that name (or digest) in ``store``.

    Raises ``NotFound``, ``BadSetting`` without a store, ``InvalidInput`` for a file that is no
    calibrator, and ``Damaged``.
    """
    from secondlook.labeling.calibrator import MAX_BYTES, Calibrator

    if _is_file(named):
        with Path(named).open("rb") as file:  # `from_json` refuses one that is longer
            return Calibrator.from_json(file.read(MAX_BYTES + 1).decode("utf-8", "replace"))
    if store is None:
        raise BadSetting(
            f"there is no file '{named:.200}', and names of calibrators are looked up in a store; "
            "give a file, or the store with --data"
        )
    try:
        return store.calibrators.get(named)
    except NotFound:
        raise NotFound(
            f"there is no file '{named:.200}', and no calibrator of that name in the store"
        ) from None


def file_digest(named: str) -> str:
    """SHA-256 of the file that a setting or flag names; empty where it names none."""
    if not _is_file(named):
        return ""
    with Path(named).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_file(named: str) -> bool:
    try:
        return Path(named).is_file()
    except (OSError, ValueError):  # no path at all
        return False


def _embedded(pipeline: "Pipeline") -> "Calibrator | None":
    """That of the embedded models, where both are in use."""
    if not pipeline.verifier or "demo" not in pipeline.proposer.name:
        return None
    from secondlook.models.embedded_calibrator import embedded_calibrator

    return embedded_calibrator()
