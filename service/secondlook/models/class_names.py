"""The names of a detector's classes, from wherever its publisher wrote them.

In this order: the file that the user names; a file beside the model with its name and another
ending; ``names`` in the model's metadata (Ultralytics); ``id2label`` of a ``config.json`` beside it
(transformers); and COCO's own for a model with as many classes as COCO has.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondlook.core.written_yaml import YamlProblem, parse_yaml
from secondlook_client.errors import BadSetting, NotFound
from secondlook_client.ontology import MAX_CLASSES, is_one_line

BUILT_IN = "coco"
"""In place of a file: COCO's 80 classes."""
ENDINGS = (".names", ".txt", ".yaml", ".yml", ".json")
"""Of a file beside the model: one name a line, or a list or mapping in YAML or JSON."""
MAX_TEXT = 2**18
"""Bytes of a text with names; ten times what 1,203 classes (LVIS) take."""
MAX_NAME = 200

COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
_UNUSED_IDS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of COCO's category ids, which go to 90: the ones without a class."""


def coco_names(columns: int) -> tuple[str, ...] | None:
    """COCO's names for 80 columns, or for 91 that stand for its category ids; otherwise None."""
    if columns == len(COCO):
        return COCO
    if columns == len(COCO) + len(_UNUSED_IDS):
        names = iter(COCO)
        return tuple("" if i in _UNUSED_IDS else next(names) for i in range(columns))
    return None


def find_names(model: Path, given: str, metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names in order, empty for a number without a class; None when nobody wrote them.

    ``given`` is ``BUILT_IN``, a file (from the working folder or beside the model), or empty.
    Raises ``NotFound`` and ``BadSetting``.
    """
    if given == BUILT_IN:
        return COCO
    if given:
        places = (Path(given).expanduser(), model.parent / given)
        file = next((path for path in places if path.is_file()), None)
        if file is None:
            raise NotFound(f"there is no file of class names '{given}'; check the path")
        return read_names(file)
    beside = [model.with_suffix(ending) for ending in ENDINGS]
    if file := next((path for path in beside if path.is_file()), None):
        return read_names(file)
    if "names" in metadata:
        return _from_yaml(metadata["names"][: MAX_TEXT + 1], "the model's metadata")
    return _id2label(model.parent / "config.json")


def read_names(file: Path) -> tuple[str, ...]:
    """The names in a file. Raises ``NotFound`` and ``BadSetting``, which name it."""
    text = read_text(file)
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        return _from_yaml(text, file.name)
    return _checked([line.strip() for line in text.rstrip().splitlines()], file.name)


def read_text(file: Path) -> str:
    """A small text of the user's. Raises ``NotFound`` and ``BadSetting``."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_TEXT + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise BadSetting(f"{file.name} is no UTF-8 text; save it as one") from cause
    except OSError as cause:
        raise NotFound(f"{file.name} cannot be read ({cause.strerror})") from cause
    if len(content) > MAX_TEXT:
        raise BadSetting(f"{file.name} has more than {MAX_TEXT:,} bytes; class names take less")
    return text


def _from_yaml(text: str, source: str) -> tuple[str, ...]:
    """A list, a mapping from numbers, or either under ``names``; Python's way of writing it too."""
    if len(text) > MAX_TEXT:
        raise BadSetting(f"the class names in {source} are longer than {MAX_TEXT:,} characters")
    try:
        value = parse_yaml(text, max_depth=4)
    except YamlProblem as cause:
        raise BadSetting(
            f"the class names in {source} cannot be read: {cause}{cause.where}"
        ) from cause
    if isinstance(value, dict) and "names" in value:
        value = value["names"]
    return _checked(_in_order(value, source), source)


def _in_order(value: Any, source: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value and all(str(k).isdecimal() and len(k) < 6 for k in value):
        numbered = {int(number): name for number, name in value.items()}
        if max(numbered) < MAX_CLASSES:
            return [numbered.get(number, "") for number in range(max(numbered) + 1)]
    raise BadSetting(
        f"the class names in {source} are neither a list nor a mapping from 0 up; "
        "give one name a line, or [person, car]"
    )


def _id2label(file: Path) -> tuple[str, ...] | None:
    if not file.is_file():
        return None
    try:
        config = json.loads(read_text(file))
        labels = config.get("id2label") if isinstance(config, dict) else None
    except (ValueError, RecursionError):
        return None
    return _checked(_in_order(labels, file.name), file.name) if isinstance(labels, dict) else None


def _checked(names: list[Any], source: str) -> tuple[str, ...]:
    if not names or len(names) > MAX_CLASSES:
        raise BadSetting(f"{source} has {len(names)} class names; expected 1 to {MAX_CLASSES}")
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME or not is_one_line(name):
            raise BadSetting(
                f"{source} holds {str(name)[:60]!r}, which is no class name: expected one line "
                f"of at most {MAX_NAME} characters"
            )
    if not any(name.strip() for name in names):
        raise BadSetting(f"{source} holds no class name")
    return tuple(names)
