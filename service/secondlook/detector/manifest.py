"""The manifest of a student: what it finds, how it was made, and the hashes of its files.

A manifest comes over a network and from disks that lose power, so each field is checked for type,
length and range before anything is done with it. The file is the canonical text itself: its SHA-256
is the student's digest.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secondlook.core.errors import Damaged, InvalidInput, NotFound
from secondlook.core.files import replacing

# Fields of JSON from anybody, each read with its type, length and range, or refused by name.

MAX_LINE = 200
"""Characters of a name."""
_WORD = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
"""No folder, no leading dot: nothing that leads out of the folder it is joined to."""


class Fields:
    """Reads one JSON object; every method raises ``Damaged`` when the field is not as it says."""

    def __init__(self, plain: Mapping[str, Any], what: str = "the manifest") -> None:
        self._plain = plain
        self._what = what
        self._read: set[str] = set()

    def text(self, name: str, most: int) -> str:
        """Up to ``most`` characters, over several lines."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > most or not _encodable(value):
            raise self._bad(name, f"a text of at most {most:,} characters")
        return value

    def line(self, name: str, empty: bool = False) -> str:
        """One line of printable characters, at most ``MAX_LINE``; empty only where allowed."""
        value = self._get(name)
        if not _is_line(value) or (not value and not empty):
            raise self._bad(name, f"one line of at most {MAX_LINE} printable characters")
        return str(value)

    def word(self, name: str) -> str:
        """Lower-case letters, digits and underscores."""
        return self._matching(name, _WORD, "a word in lower case")

    def digest(self, name: str) -> str:
        """A SHA-256, 64 hex digits."""
        return self._matching(name, _DIGEST, "64 hex digits")

    def names(self, name: str, most: int) -> tuple[str, ...]:
        """1 to ``most`` different lines."""
        values = self._list(name)
        lines = [value for value in values if _is_line(value) and value.strip()]
        if not 1 <= len(values) <= most or len(lines) < len(values):
            raise self._bad(name, f"1 to {most:,} names of one line each")
        if len(set(lines)) < len(lines):
            raise self._bad(name, "different names")
        return tuple(lines)

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        return _whole(self._get(name), low, high, self._bad(name, f"from {low} to {high}"))

    def wholes(self, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """``count`` whole numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} whole numbers from {low} to {high}")
        values = self._list(name)
        if len(values) != count:
            raise bad
        return tuple(_whole(value, low, high, bad) for value in values)

    def number(self, name: str, low: float, high: float) -> float:
        """A finite number from ``low`` to ``high``."""
        return _number(self._get(name), low, high, self._bad(name, f"from {low:g} to {high:g}"))

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """``count`` numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} numbers from {low:g} to {high:g}, one a class")
        values = self._list(name)
        if len(values) != count:
            raise bad
        return tuple(_number(value, low, high, bad) for value in values)

    def pairs(
        self, name: str, count: int, low: float, high: float
    ) -> tuple[tuple[float, float], ...]:
        """``count`` pairs of numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} pairs of numbers, one a class")
        values = self._list(name)
        if len(values) != count or not all(isinstance(v, list) and len(v) == 2 for v in values):
            raise bad
        return tuple((_number(a, low, high, bad), _number(b, low, high, bad)) for a, b in values)

    def figures(self, name: str, most: int) -> Mapping[str, float]:
        """Up to ``most`` finite numbers by name."""
        bad = self._bad(name, f"at most {most:,} numbers by name")
        values = self._get(name)
        if not isinstance(values, dict) or len(values) > most:
            raise bad
        if not all(key and _is_line(key) for key in values):
            raise bad
        return {key: _number(value, -1e15, 1e15, bad) for key, value in values.items()}

    def entries(self, name: str, most: int) -> Iterator[tuple[str, "Fields"]]:
        """Up to ``most`` objects by the plain name of a file; each is read to its end."""
        values = self._get(name)
        if not isinstance(values, dict) or len(values) > most:
            raise self._bad(name, f"at most {most} files")
        for key, value in values.items():
            if not _PLAIN_FILE.fullmatch(key) or not isinstance(value, dict):
                raise self._bad(name, "files by plain name, each with sha256 and size")
            entry = Fields(value, f"a file of {self._what}")
            yield key, entry
            entry.nothing_else()

    def nothing_else(self) -> None:
        """Refuse fields that were not read: their hash would be part of no digest."""
        if unknown := set(self._plain) - self._read:
            raise Damaged(
                f"{self._what} has {len(unknown)} field(s) that this version does not know"
            )

    def _matching(self, name: str, pattern: re.Pattern[str], wanted: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._bad(name, wanted)
        return value

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._bad(name, "a list")
        return value

    def _get(self, name: str) -> Any:
        if name not in self._plain:
            raise Damaged(f"{self._what} has no {name}")
        self._read.add(name)
        return self._plain[name]

    def _bad(self, name: str, wanted: str) -> Damaged:
        return Damaged(f"{name} of {self._what} is not as it must be: {wanted}")


def _whole(value: object, low: int, high: int, bad: Damaged) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad
    return value


def _number(value: object, low: float, high: float, bad: Damaged) -> float:
    """Python compares whole numbers of any length with floats exactly, so huge ones are safe."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad
    if not low <= value <= high or not math.isfinite(value):
        raise bad
    return float(value)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_LINE and value.isprintable()


def _encodable(text: str) -> bool:
    """JSON can spell halves of a surrogate pair, which no file or message can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
    """Width, height; images are stretched to it."""
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


# The sizes that a student may have; what each is made of is in ``training.model``.

STUDENT_SIZES = ("pico", "nano", "small")
"""From the smallest to the largest."""
USUAL_SIZE = "pico"
"""Where nobody asks for another one: it alone has an embedded start."""
