"""The manifest of a student: what it finds, how it was made, and the hashes of its files.

A manifest comes over a network and from disks that lose power, so each field is checked for type,
length and range before anything is done with it. The file is the canonical text itself: its SHA-256
is the student's digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from secondlook.atomic import replacing
from secondlook.detector.fields import Fields
from secondlook.errors import Damaged, InvalidInput, NotFound

FORMAT = 1
FILE_NAME = "manifest.json"
FP32 = "model.onnx"
INT8 = "model.int8.onnx"
SELF_TEST = "self_test.npz"
MAX_TEXT = 2**20
"""Bytes of a manifest; two thousand classes take a third of it."""
MAX_CLASSES = 2000
MAX_FILE = 2**30
"""Bytes of one file of a student."""
MAX_SIDE = 2048
"""Pixels of the input."""
_CHUNK = 2**20


@dataclass(frozen=True)
class ModelFile:
    """One file of a student."""

    sha256: str
    """64 hex digits."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """All that is known of a student besides its weights."""

    name: str
    """As the user named it, or the snapshot's name; for people, never a path."""
    architecture: str
    """``deimv2`` or ``d_fine``."""
    size: str
    """``pico``, ``nano`` or ``small``."""
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    """Width, height; pictures are stretched to it."""
    thresholds: tuple[float, ...]
    """A class each, [0, 1]: the raw score with the best F1 on the held-out split."""
    calibration: tuple[tuple[float, float], ...]
    """A class each: slope and intercept of P(right) = sigmoid(slope · logit(score) + intercept)."""
    ontology: str
    """The classes with phrases and questions, as YAML; empty when trained from a folder."""
    snapshot: str
    """Hash of the snapshot it was trained on, or digest of the folder."""
    split: str
    """The held-out split that its figures come from."""
    metrics: Mapping[str, float]
    """``map``, ``map50``, ``int8_map50``, ``images_per_second``, …; only finite numbers."""
    files: Mapping[str, ModelFile]
    """By plain name; ``model.onnx`` and ``self_test.npz`` are always among them."""
    created_at: float
    """Seconds since 1970, UTC."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hex digits: the student's identity."""
        return hashlib.sha256(manifest_text(self).encode("ascii")).hexdigest()


def manifest_text(manifest: Manifest) -> str:
    """The one way to write a manifest: sorted keys, indented, ASCII.

    Raises ``ValueError`` for a number that is not finite.
    """
    plain = asdict(manifest) | {  # 1 and 1.0 are the same figure and must have the same text
        "thresholds": [float(value) for value in manifest.thresholds],
        "calibration": [[float(a), float(b)] for a, b in manifest.calibration],
        "metrics": {name: float(value) for name, value in manifest.metrics.items()},
        "created_at": float(manifest.created_at),
    }
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False) + "\n"


def parse_manifest(text: str | bytes) -> Manifest:
    """Read a manifest of anybody. Raises ``Damaged`` naming the field; never anything else."""
    if len(text) > MAX_TEXT:
        raise Damaged(f"the manifest has {len(text):,} bytes; at most {MAX_TEXT:,} are read")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise Damaged("the manifest is no JSON: it is truncated or not a manifest") from cause
    if not isinstance(plain, dict):
        raise Damaged("the manifest is no JSON object")
    return _read(Fields(plain))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a student folder. Raises ``NotFound`` and ``Damaged``."""
    path = folder / FILE_NAME
    try:
        if not path.is_file():
            raise NotFound(f"{folder} holds no {FILE_NAME}: it is not the folder of a student")
        with path.open("rb") as file:
            text = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as cause:  # ValueError: a path with a null character
        raise Damaged(f"{FILE_NAME} of the student cannot be read ({cause})") from cause
    return parse_manifest(text)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder, whole or not at all.

    Raises ``InvalidInput`` for one that ``read_manifest`` would refuse, and ``StorageFull``.
    """
    try:
        text = manifest_text(manifest)
        parse_manifest(text)
    except (TypeError, ValueError, Damaged) as cause:
        raise InvalidInput(f"this is no sound manifest: {cause}") from cause
    with replacing(folder / FILE_NAME) as part:
        part.write_text(text, encoding="ascii")


def verify_files(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Compare size and hash of the files with the manifest; ``names`` None: of all of them.

    Raises ``Damaged`` for one that is missing or differs, and ``NotFound`` for a name that the
    student does not have.
    """
    for name in manifest.files if names is None else names:
        expected = _entry(manifest, name)
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size != expected.size:
                raise _differs(name)
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    raise _differs(name)
        except OSError as cause:
            raise Damaged(f"{name} of the student cannot be read ({cause})") from cause


def read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of one file, and exactly those that were checked: it is read once.

    Raises ``Damaged`` and ``NotFound`` as ``verify_files``.
    """
    expected = _entry(manifest, name)
    path = folder / name
    try:
        if not path.is_file():
            raise _differs(name)
        with path.open("rb") as file:
            content = file.read(expected.size + 1)
    except OSError as cause:
        raise Damaged(f"{name} of the student cannot be read ({cause})") from cause
    if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
        raise _differs(name)
    return content


def describe_file(path: Path) -> ModelFile:
    """Size and hash of a file, as a manifest names it."""
    with path.open("rb") as file:
        return ModelFile(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _entry(manifest: Manifest, name: str) -> ModelFile:
    if name not in manifest.files:
        raise NotFound(f"the student {manifest.name} has no {name}")
    return manifest.files[name]


def _differs(name: str) -> Damaged:
    return Damaged(
        f"{name} of the student is missing, truncated or not the one that its manifest names; "
        "fetch or export the student again"
    )


def _read(fields: Fields) -> Manifest:
    if fields.whole("format", 0, 2**31) != FORMAT:
        raise Damaged("the manifest has a format of a newer secondlook; install that version")
    classes = fields.names("classes", MAX_CLASSES)
    files = {
        name: ModelFile(entry.digest("sha256"), entry.whole("size", 0, MAX_FILE))
        for name, entry in fields.entries("files", 20)
    }
    for needed in (FP32, SELF_TEST):
        if needed not in files:
            raise Damaged(f"the manifest names no {needed}")
    if FILE_NAME in files:
        raise Damaged(f"the manifest names {FILE_NAME}, which cannot hold its own hash")
    width, height = fields.wholes("input_size", 2, 16, MAX_SIDE)
    read = Manifest(
        name=fields.line("name"),
        architecture=fields.word("architecture"),
        size=fields.word("size"),
        classes=classes,
        input_size=(width, height),
        thresholds=fields.numbers("thresholds", len(classes), 0.0, 1.0),
        calibration=fields.pairs("calibration", len(classes), -1e6, 1e6),
        ontology=fields.text("ontology", MAX_TEXT),
        snapshot=fields.line("snapshot", empty=True),
        split=fields.line("split", empty=True),
        metrics=fields.figures("metrics", 5 * MAX_CLASSES),
        files=files,
        created_at=fields.number("created_at", 0.0, 1e11),
    )
    fields.nothing_else()
    return read
