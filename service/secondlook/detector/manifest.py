"""The manifest of a student: what it finds, how it was made, and the hashes of its files.

A manifest comes over a network and from disks that lose power, so each field is checked for type,
length and range before anything is done with it. The file is the canonical text itself: its SHA-256
is the student's digest.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from secondlook.core.files import replacing
from secondlook_client.errors import Damaged, InvalidInput, NotFound
from secondlook_client.ontology import is_one_line

FORMAT = 1
FILE_NAME = "manifest.json"
FP32 = "model.onnx"
INT8 = "model.int8.onnx"
SELF_TEST = "self_test.npz"
STUDENT_SIZES = ("pico", "nano", "small")
"""The sizes of a student, from the smallest; what each is made of is in ``training.model``."""
DEFAULT_SIZE = "pico"
"""It alone has an embedded start."""
MAX_TEXT = 2**20
"""Bytes of a manifest; two thousand classes take a third of it."""
MAX_LINE = 200
"""Characters of a name."""
MAX_CLASSES = 2000
MAX_FILE = 2**30
"""Bytes of one file of a student."""
MAX_SIDE = 2048
"""Pixels of the input."""

_Line = Annotated[str, Meta(max_length=MAX_LINE)]
_Word = Annotated[str, Meta(pattern=r"\A[a-z0-9_]{1,40}\Z")]
_Side = Annotated[int, Meta(ge=16, le=MAX_SIDE)]
_Factor = Annotated[float, Meta(ge=-1e6, le=1e6)]
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""No folder, no leading dot: nothing that leads out of the folder it is joined to."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a student."""

    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """64 hex digits."""
    size: Annotated[int, Meta(ge=0, le=MAX_FILE)]
    """Bytes."""


@dataclass(frozen=True)
class StudentManifest:
    """All that is known of a student besides its weights.

    ``parse_manifest`` checks the annotated limits; a value made in code may break them.
    """

    name: Annotated[_Line, Meta(min_length=1)]
    """As the user named it, or the snapshot's name; for people, never a path."""
    architecture: _Word
    """``deimv2`` or ``d_fine``."""
    size: _Word
    """``pico``, ``nano`` or ``small``."""
    classes: Annotated[tuple[_Line, ...], Meta(min_length=1, max_length=MAX_CLASSES)]
    input_size: tuple[_Side, _Side]
    """Width, height; images are stretched to it."""
    thresholds: tuple[Annotated[float, Meta(ge=0, le=1)], ...]
    """A class each, [0, 1]: the raw score with the best F1 on the held-out split."""
    calibration: tuple[tuple[_Factor, _Factor], ...]
    """A class each: slope and intercept of P(right) = sigmoid(slope · logit(score) + intercept)."""
    ontology: str
    """The classes with phrases and questions, as YAML; empty when trained from a folder."""
    snapshot: _Line
    """Hash of the snapshot it was trained on, or digest of the folder."""
    split: _Line
    """The held-out split that its figures come from."""
    metrics: Annotated[
        Mapping[Annotated[_Line, Meta(min_length=1)], Annotated[float, Meta(ge=-1e15, le=1e15)]],
        Meta(max_length=5 * MAX_CLASSES),
    ]
    """``map``, ``map50``, ``int8_map50``, ``images_per_second``, …; only finite numbers."""
    files: Annotated[Mapping[str, ModelFile], Meta(max_length=20)]
    """By plain name; ``model.onnx`` and ``self_test.npz`` are always among them."""
    created_at: Annotated[float, Meta(ge=0, le=1e11)]
    """Seconds since 1970, UTC."""
    groups: tuple[_Line, ...] = ()
    """A class each: the contrast group whose other classes exclude it, empty where it has none.
    Empty as a whole, and not in the file, when no class has one: older students have no such field,
    and their digest must stay."""
    group_calibration: tuple[tuple[_Factor, _Factor], ...] = ()
    """A class each, with ``groups``: as ``calibration``, of detections before one class of a group
    is chosen, by which they are compared."""
    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hex digits: the student's identity."""
        return hashlib.sha256(manifest_text(self).encode("ascii")).hexdigest()


def manifest_text(manifest: StudentManifest) -> str:
    """The one way to write a manifest: sorted keys, indented, ASCII.

    Raises ``ValueError`` for a number that is not finite.
    """
    plain = asdict(manifest) | {  # 1 and 1.0 are the same figure and must have the same text
        "thresholds": [float(value) for value in manifest.thresholds],
        "calibration": [[float(a), float(b)] for a, b in manifest.calibration],
        "metrics": {name: float(value) for name, value in manifest.metrics.items()},
        "created_at": float(manifest.created_at),
    }
    if manifest.groups:
        plain["group_calibration"] = [[float(a), float(b)] for a, b in manifest.group_calibration]
    else:
        del plain["groups"], plain["group_calibration"]
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False) + "\n"


def parse_manifest(text: str | bytes) -> StudentManifest:
    """Read an untrusted manifest. Raises ``Damaged`` naming the field; never anything else."""
    if len(text) > MAX_TEXT:
        raise Damaged(f"the manifest has {len(text):,} bytes; at most {MAX_TEXT:,} are read")
    try:
        plain = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as cause:
        raise Damaged("the manifest is no JSON: it is truncated or not a manifest") from cause
    if not isinstance(plain, dict):
        raise Damaged("the manifest is no JSON object")
    if isinstance(plain.get("format"), int) and plain["format"] > FORMAT:
        raise Damaged("the manifest has a format of a newer secondlook; install that version")
    try:
        manifest = msgspec.convert(plain, StudentManifest)
    except (msgspec.ValidationError, OverflowError) as cause:
        raise Damaged(f"the manifest is not as it must be: {cause}") from cause
    _check(manifest, plain)
    return manifest


def read_manifest(folder: Path) -> StudentManifest:
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


def write_manifest(folder: Path, manifest: StudentManifest) -> None:
    """Write it into the folder, atomically.

    Raises ``InvalidInput`` for one that ``read_manifest`` would refuse, and ``StorageFull``.
    """
    try:
        text = manifest_text(manifest)
        parse_manifest(text)
    except (TypeError, ValueError, Damaged) as cause:
        raise InvalidInput(f"this is no sound manifest: {cause}") from cause
    with replacing(folder / FILE_NAME) as part:
        part.write_text(text, encoding="ascii")


def verify_files(
    folder: Path, manifest: StudentManifest, names: Iterable[str] | None = None
) -> None:
    """Compare size and hash of the files with the manifest; ``names`` None: of all of them.

    Raises ``Damaged`` for one that is missing or differs, and ``NotFound`` for a name that the
    student does not have.
    """
    for name in manifest.files if names is None else names:
        expected = _entry(manifest, name)
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size != expected.size:
                raise _mismatch(name)
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    raise _mismatch(name)
        except OSError as cause:
            raise Damaged(f"{name} of the student cannot be read ({cause})") from cause


def read_verified(folder: Path, manifest: StudentManifest, name: str) -> bytes:
    """The bytes of one file, and exactly those that were checked: it is read once.

    Raises ``Damaged`` and ``NotFound`` as ``verify_files``.
    """
    expected = _entry(manifest, name)
    path = folder / name
    try:
        if not path.is_file():
            raise _mismatch(name)
        with path.open("rb") as file:
            content = file.read(expected.size + 1)
    except OSError as cause:
        raise Damaged(f"{name} of the student cannot be read ({cause})") from cause
    if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
        raise _mismatch(name)
    return content


def describe_file(path: Path) -> ModelFile:
    """Size and hash of a file, as a manifest names it."""
    with path.open("rb") as file:
        return ModelFile(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _entry(manifest: StudentManifest, name: str) -> ModelFile:
    if name not in manifest.files:
        raise NotFound(f"the student {manifest.name} has no {name}")
    return manifest.files[name]


def _mismatch(name: str) -> Damaged:
    return Damaged(
        f"{name} of the student is missing, truncated or not the one that its manifest names; "
        "fetch or export the student again"
    )


def _check(manifest: StudentManifest, plain: dict[str, Any]) -> None:
    """What the types of the fields cannot say. Raises ``Damaged``."""
    lines = [manifest.name, manifest.snapshot, manifest.split, *manifest.metrics]
    if not all(map(is_one_line, [*lines, *manifest.classes, *manifest.groups])):
        raise Damaged(
            "name, snapshot, split, classes, groups and metrics of the manifest are one line each"
        )
    if not all(name.strip() for name in manifest.classes):
        raise Damaged("classes of the manifest are not as they must be: names that are not blank")
    count = len(manifest.classes)
    if len(set(manifest.classes)) < count:
        raise Damaged("classes of the manifest are not as they must be: different names")
    for name in ("thresholds", "calibration"):
        if len(getattr(manifest, name)) != count:
            raise Damaged(f"{name} of the manifest is not as it must be: {count}, one a class")
    grouped = {"groups", "group_calibration"} & plain.keys()
    sizes = {len(manifest.groups), len(manifest.group_calibration)}
    if grouped and (sizes != {count} or not any(manifest.groups)):
        raise Damaged(f"groups of the manifest are not as they must be: {count}, one a class")
    if not all(map(_PLAIN_NAME.fullmatch, manifest.files)):
        raise Damaged("files of the manifest are not as they must be: each has a plain name")
    for needed in (FP32, SELF_TEST):
        if needed not in manifest.files:
            raise Damaged(f"the manifest names no {needed}")
    if FILE_NAME in manifest.files:
        raise Damaged(f"the manifest names {FILE_NAME}, which cannot hold its own hash")
    # Unknown fields would be part of no digest.
    known = {field.name for field in fields(manifest)}
    if plain.keys() | {"groups", "group_calibration"} != known or any(
        entry.keys() != {"sha256", "size"} for entry in plain["files"].values()
    ):
        raise Damaged("the manifest lacks a format or has fields that this version does not know")
