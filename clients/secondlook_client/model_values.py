"""Versions of models and trainings as values, and the messages that they come in."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from secondlook_client.errors import Damaged
from secondlook_client.v1 import models_pb2 as pb

_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model, which never changes."""

    name: str
    version: int
    """From 1."""
    digest: str
    """SHA-256 of ``manifest_json``, 64 hex digits."""
    manifest_json: str
    """Classes, input, thresholds, figures, files: the text of ``manifest.json``."""
    report_json: str
    """The report of its training; empty unless it was asked for."""
    created_at: float
    """Seconds since 1970."""
    current: bool
    """Whether it was what devices fetch, when it was asked for."""
    files: Mapping[str, tuple[str, int]]
    """(sha256, bytes) by plain name."""
    promotion: str = ""
    """Why it was made current last, for a person; empty when it never was."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files.values())


@dataclass(frozen=True)
class ModelComparison:
    """What the version that was current and the one that now is made of the same images."""

    snapshot: str
    split: str
    images: int
    current_version: int
    """The one that was current before."""
    current_map50: float
    """Its mAP50, [0, 1]."""
    candidate_map50: float
    """Of the one promoted, over the same classes."""


@dataclass(frozen=True)
class Promotion:
    """A version that was made current."""

    model: ModelVersion
    comparison: ModelComparison | None
    """None when there was nothing to compare with, and when it was forced."""


class TrainingState(StrEnum):
    """How a training stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """Its student is a version of the model."""
    FAILED = "failed"
    """It cannot go on; its message says why."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """Something that only a newer client knows."""


@dataclass(frozen=True)
class Training:
    """A training as it stood when it was asked for."""

    id: int
    model: str
    """Name of the model that gets the new version."""
    snapshot: str
    split: str
    """Held out; empty: as the training chooses."""
    size: str
    state: TrainingState
    step: int
    of: int
    """Steps in all; 0 while that is not known."""
    loss: float | None
    map50: float | None
    """On the held-out part, [0, 1]; None before it was measured."""
    phase: str
    """What it does, in a word."""
    message: str
    """What it waits for, or why it failed."""
    version: int
    """That it made; 0 before it is done."""
    created_at: float
    """Seconds since 1970, UTC; so is ``changed_at``."""
    changed_at: float

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        ended = (TrainingState.DONE, TrainingState.FAILED, TrainingState.CANCELLED)
        return self.state in ended


_STATES = {
    pb.TRAINING_STATE_QUEUED: TrainingState.QUEUED,
    pb.TRAINING_STATE_RUNNING: TrainingState.RUNNING,
    pb.TRAINING_STATE_DONE: TrainingState.DONE,
    pb.TRAINING_STATE_FAILED: TrainingState.FAILED,
    pb.TRAINING_STATE_CANCELLED: TrainingState.CANCELLED,
}


def model_version(message: pb.ModelVersion) -> ModelVersion:
    """The value of a message. Raises ``Damaged`` for one that nothing may be written by."""
    files = {name: (file.sha256, file.size) for name, file in message.files.items()}
    if not _is_sound(message, files):
        raise Damaged(
            f"version {message.version} of '{message.name:.200}' came with another manifest than "
            "its digest says, or with files of strange names; run `secondlook check` where the "
            "server's store is"
        )
    return ModelVersion(
        name=message.name,
        version=message.version,
        digest=message.digest,
        manifest_json=message.manifest_json,
        report_json=message.report_json,
        created_at=message.created_at,
        current=message.current,
        files=files,
        promotion=message.promotion,
    )


def _is_sound(message: pb.ModelVersion, files: Mapping[str, tuple[str, int]]) -> bool:
    """Whether the digest is the manifest's, and the files are those that the manifest names."""
    if hashlib.sha256(message.manifest_json.encode()).hexdigest() != message.digest:
        return False
    try:
        named = json.loads(message.manifest_json)["files"]
        told = {name: (file["sha256"], file["size"]) for name, file in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return told == files and all(
        _PLAIN_FILE.fullmatch(name) and _SHA256.fullmatch(sha256) and name != MANIFEST
        for name, (sha256, _) in files.items()
    )


def promotion(message: pb.PromoteModelResponse) -> Promotion:
    """The value of a message."""
    if not message.HasField("comparison"):
        return Promotion(model_version(message.model), None)
    told = message.comparison
    comparison = ModelComparison(
        snapshot=told.snapshot,
        split=told.split,
        images=told.images,
        current_version=told.current_version,
        current_map50=told.current_map50,
        candidate_map50=told.candidate_map50,
    )
    return Promotion(model_version(message.model), comparison)


def training(message: pb.Training) -> Training:
    """The value of a message."""
    return Training(
        id=message.id,
        model=message.model,
        snapshot=message.snapshot,
        split=message.split,
        size=message.size,
        state=_STATES.get(message.state, TrainingState.UNKNOWN),
        step=message.step,
        of=message.of,
        loss=message.loss if message.HasField("loss") else None,
        map50=message.map50 if message.HasField("map50") else None,
        phase=message.phase,
        message=message.message,
        version=message.version,
        created_at=message.created_at,
        changed_at=message.changed_at,
    )
