"""The folder of a micro-model: what it finds, in which scene, and the hashes of its files.

FOLDER/micro.json     the manifest; its SHA-256 is the model's identity
FOLDER/head.onnx      tells crops of the target from all others
FOLDER/scene.npy      what the frames of its clip look like to its embedder
FOLDER/labels.json    the labels that it was made of, as COCO, for the next version

A folder may come from anybody: each field is checked, files are read as they were hashed, and only
registered adapters are named as its finder and embedder, so that no code of the folder runs.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from secondlook.core.files import replacing
from secondlook.detector.manifest import ModelFile, describe_file
from secondlook.labeling.embedder import Vectors
from secondlook_client.errors import Damaged, InvalidInput, NotFound
from secondlook_client.ontology import is_one_line

FORMAT = 1
FILE_NAME = "micro.json"
HEAD = "head.onnx"
SCENE = "scene.npy"
LABELS = "labels.json"
FILES = (HEAD, SCENE, LABELS)
MAX_TEXT = 2**16
"""Bytes of a manifest."""
MAX_FILE = 2**28
"""Bytes of one file."""
MAX_SCENE = 4096
"""Vectors of a scene."""

_Line = Annotated[str, Meta(min_length=1, max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=10**9)]
_Digest = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]


@dataclass(frozen=True)
class MicroManifest:
    """All that is known of a micro-model besides its weights.

    ``read_micro_manifest`` checks the annotated limits; a value made in code may break them.
    """

    name: _Line
    """Of the folder that it was first written to; for people."""
    class_name: _Line
    """What it finds."""
    finder: _Line
    """Spec of the proposer whose boxes it judges."""
    phrase: _Line
    """What that proposer is asked for."""
    embedder: _Line
    """Spec of the model that knows its scene."""
    scene_distance: Annotated[float, Meta(gt=0, le=2)]
    """Cosine distance to the nearest frame of its clip up to which a frame is of its scene."""
    side: Annotated[int, Meta(ge=16, le=512)]
    """Pixels of a crop as the head takes it."""
    clip: _Line
    """Name of the clip that it was trained on."""
    labels: _Count
    negatives: _Count
    """Boxes that people called wrong."""
    frames: _Count
    """Labelled frames."""
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    """Of its training."""
    version: Annotated[int, Meta(ge=1, le=10**6)]
    """1, and one more with each ``--continue``."""
    parent: _Digest
    """Digest of the version before; empty for the first."""
    files: Annotated[Mapping[str, ModelFile], Meta(min_length=3, max_length=3)]
    """Those of ``FILES``."""
    created_at: Annotated[float, Meta(ge=0, le=1e11)]
    """Seconds since 1970, UTC."""
    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hex digits."""
        return hashlib.sha256(_text(self).encode("ascii")).hexdigest()


def is_micro_folder(folder: Path) -> bool:
    """Whether there is a manifest."""
    return (folder / FILE_NAME).is_file()


def read_micro_manifest(folder: Path) -> MicroManifest:
    """The manifest of a folder. Raises ``NotFound``, and ``Damaged`` naming the field."""
    path = folder / FILE_NAME
    try:
        if not path.is_file():
            raise NotFound(
                f"{folder} holds no {FILE_NAME}: it is no micro-model; `secondlook micro train "
                f"--out {folder}` makes one"
            )
        with path.open("rb") as file:
            text = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as cause:  # ValueError: a path with a null character
        raise Damaged(f"{FILE_NAME} cannot be read ({cause})") from cause
    return _parsed(text)


def write_micro_manifest(folder: Path, manifest: MicroManifest) -> None:
    """Write it into the folder, atomically. Raises ``InvalidInput`` and ``StorageFull``."""
    try:
        text = _text(manifest)
        _parsed(text.encode("ascii"))
    except (TypeError, ValueError, Damaged) as cause:
        raise InvalidInput(f"this is no sound manifest: {cause}") from cause
    with replacing(folder / FILE_NAME) as part:
        part.write_text(text, encoding="ascii")


def described_files(folder: Path) -> dict[str, ModelFile]:
    """Size and hash of each of ``FILES``."""
    return {name: describe_file(folder / name) for name in FILES}


def read_hashed(folder: Path, manifest: MicroManifest, name: str) -> bytes:
    """The bytes of one of ``FILES``, and exactly those that were checked. Raises ``Damaged``."""
    expected = manifest.files[name]
    try:
        with (folder / name).open("rb") as file:
            content = file.read(min(expected.size, MAX_FILE) + 1)
    except OSError as cause:
        raise Damaged(f"{name} of the micro-model cannot be read ({cause.strerror})") from cause
    if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
        raise Damaged(
            f"{name} of the micro-model is truncated or not the one that its manifest names; train "
            "it again"
        )
    return content


def read_scene(content: bytes, dimensions: int) -> Vectors:
    """The vectors (N, ``dimensions``) in a ``scene.npy``. Raises ``Damaged``."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as cause:
        raise Damaged(f"{SCENE} of the micro-model cannot be read ({cause})") from cause
    if (
        found.dtype != np.float32
        or found.ndim != 2
        or not 1 <= len(found) <= MAX_SCENE
        or found.shape[1] != dimensions
        or not np.isfinite(found).all()
    ):
        raise Damaged(
            f"{SCENE} of the micro-model has {found.dtype} values of shape {found.shape}, and its "
            f"embedder gives {dimensions} numbers an image; train it again"
        )
    return np.asarray(found)


def _text(manifest: MicroManifest) -> str:
    return json.dumps(asdict(manifest), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _parsed(text: bytes) -> MicroManifest:
    if len(text) > MAX_TEXT:
        raise Damaged(f"{FILE_NAME} has more than {MAX_TEXT:,} bytes")
    try:
        plain: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as cause:
        raise Damaged(f"{FILE_NAME} is no JSON: it is truncated or not a manifest") from cause
    if not isinstance(plain, dict) or plain.keys() != {one.name for one in fields(MicroManifest)}:
        raise Damaged(f"{FILE_NAME} lacks fields, or has some that this version does not know")
    try:
        manifest = msgspec.convert(plain, MicroManifest)
    except (msgspec.ValidationError, OverflowError) as cause:
        raise Damaged(f"{FILE_NAME} is not as it must be: {cause}") from cause
    lines = (manifest.name, manifest.class_name, manifest.phrase, manifest.clip)
    if not all(map(is_one_line, lines)) or not manifest.class_name.strip():
        raise Damaged(f"name, class_name, phrase and clip of {FILE_NAME} are one line each")
    if set(manifest.files) != set(FILES):
        raise Damaged(f"files of {FILE_NAME} are not {', '.join(FILES)}")
    return manifest
