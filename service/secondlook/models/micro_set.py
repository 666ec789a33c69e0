"""Which micro-models serve together: a folder, or a file beside them.

    batman/             one micro-model
    street/             a folder that holds several
    street.yaml         a file that names several: ``models: [batman/, cars/taxi]``
    line.yaml           an assembly line: one model finds, micro-models tell apart, one outlines

An assembly line is these lines, of which ``phrase`` and ``outline`` may be left out:

    find: demo                        # a proposer by its registered name
    phrase: person                    # what it looks for; else the phrase of each micro-model
    tell_apart: [batman/, robin/]     # micro-models, each frame routed to those of its scene
    outline: demo                     # a segmenter by its registered name

A file may come from anybody: it names folders beside or below it, and registered adapters only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.config.settings import PROPOSERS, SEGMENTERS
from secondlook.core.files import FolderRoot
from secondlook.core.written_yaml import YamlProblem, parse_yaml
from secondlook.models.micro_folder import is_micro_folder
from secondlook_client.errors import BadSetting, NotAllowed, NotFound
from secondlook_client.ontology import is_one_line

MAX_MODELS = 64
"""Micro-models of one set."""
MAX_YAML = 2**16
"""Bytes of a file that names several."""
MAX_TEXT = 200
"""Characters of a name or phrase."""
_SET, _LINE = ("models",), ("find", "phrase", "tell_apart", "outline")
_NEEDED = ("find", "tell_apart")


@dataclass(frozen=True)
class MicroSet:
    """Micro-models that serve together; of an assembly line also the other models."""

    folders: tuple[Path, ...]
    find: str = ""
    """Spec of the proposer that finds what all of them judge; empty: each has its own finder."""
    phrase: str = ""
    """What it is asked for; empty: the phrase of each micro-model."""
    outline: str = ""
    """Spec of the segmenter that outlines what is found; empty: none."""

    @property
    def told(self) -> str:
        """What a line adds to its micro-models; empty for a set."""
        parts = (("find", self.find), ("phrase", self.phrase), ("outline", self.outline))
        return ", ".join(f"{name} {value}" for name, value in parts if value)


def read_micro_set(path: Path) -> MicroSet:
    """The micro-models that a path stands for. Raises ``NotFound``, and ``BadSetting`` for a file
    that is not as it must be."""
    if is_micro_folder(path):
        return MicroSet((path,))
    if path.is_file():
        return _read_file(path)
    found = sorted(p for p in path.iterdir() if is_micro_folder(p)) if path.is_dir() else []
    if not found:
        raise NotFound(
            f"'{path}' is neither a micro-model, nor a folder of some, nor a file that names some; "
            "`secondlook micro train` makes one"
        )
    return MicroSet(_few(found, path))


def _read_file(path: Path) -> MicroSet:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_YAML + 1).decode("utf-8-sig")
        plain = parse_yaml(text, 4) if len(text) <= MAX_YAML else None
    except (OSError, UnicodeDecodeError, YamlProblem) as cause:
        raise BadSetting(f"'{path}' cannot be read as YAML ({cause})") from cause
    if not isinstance(plain, dict) or not (plain.keys() == {*_SET} or "find" in plain):
        raise BadSetting(
            f"'{path}': expected `models: [FOLDER, …]` and nothing else, or an assembly line of "
            f"{', '.join(_LINE)}"
        )
    if "find" not in plain:
        return MicroSet(_listed(plain, "models", path))
    return _line(plain, path)


def _line(plain: dict[Any, Any], path: Path) -> MicroSet:
    if unknown := [key for key in plain if key not in _LINE]:
        raise BadSetting(
            f"'{path}': an assembly line has no '{unknown[0]!s:.60}'; it has {', '.join(_LINE)}"
        )
    if missing := [key for key in _NEEDED if key not in plain]:
        raise BadSetting(f"'{path}': an assembly line without '{missing[0]}' does nothing; add it")
    texts = {key: plain.get(key, "") for key in _LINE if key != "tell_apart"}
    for key, value in texts.items():
        if not isinstance(value, str) or len(value) > MAX_TEXT or not is_one_line(value):
            raise BadSetting(
                f"'{path}': expected '{key}' to be a text of one line and at most {MAX_TEXT} "
                "characters"
            )
    check_adapter(PROPOSERS, texts["find"])
    if texts["outline"]:
        check_adapter(SEGMENTERS, texts["outline"])
    folders = _listed(plain, "tell_apart", path)
    return MicroSet(folders, texts["find"], texts["phrase"].strip().lower(), texts["outline"])


def _listed(plain: dict[Any, Any], key: str, path: Path) -> tuple[Path, ...]:
    """The folders that a file names, which lie beside or below it."""
    names = plain[key]
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names) or not names:
        raise BadSetting(f"'{path}': expected `{key}: [FOLDER, …]`, folders of micro-models")
    try:
        root = FolderRoot(path.resolve().parent)
        return _few([root.path / root.resolve(name) for name in names], path)
    except NotAllowed as refusal:
        raise BadSetting(f"'{path}': {refusal}") from refusal


def _few(folders: list[Path], path: Path) -> tuple[Path, ...]:
    if len(folders) > MAX_MODELS:
        raise BadSetting(f"'{path}' has {len(folders)} micro-models; at most {MAX_MODELS} serve")
    return tuple(folders)


def check_adapter(group: str, spec: str) -> None:
    """Raises ``BadSetting`` unless a registered adapter is named: a manifest or file is a
    stranger's, and an import path would run code."""
    from secondlook.models.registry import available

    names = [name for name in available(group) if name != "micro"]
    if spec.partition(":")[0] not in names:
        raise BadSetting(
            f"a micro-model works with a registered model by its name ({', '.join(names)}), not "
            f"with '{spec:.80}'"
        )
