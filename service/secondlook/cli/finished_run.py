"""Whether a run is finished and nothing has changed since: then no model need be loaded.

A finished run leaves ``.finished.json`` in its folder: a hash of all that its outputs depend on,
the size of the outputs, and what was printed. A run that claims the folder removes it first.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secondlook.cli.output_folder import FINISHED
from secondlook.core.files import replacing
from secondlook.core.image_folder import ImageSelection
from secondlook.core.version import installed_version


class FinishedRun:
    """The record of one run in its folder."""

    def __init__(self, out: Path, selection: ImageSelection, given: Mapping[str, Any]) -> None:
        """``given``: everything besides the images that the outputs depend on, each with a
        ``repr`` that says all of it."""
        self._out = out
        self._path = out / FINISHED
        self._key = _key(selection, {**given, "out": str(out)})

    def lines(self) -> list[str] | None:
        """What the run printed; None where there is something to do."""
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            outputs = {name: _extent(self._out / name) for name in record["outputs"]}
            if record["key"] == self._key and record["outputs"] == outputs:
                return [str(line) for line in record["lines"]]
        except (OSError, ValueError, LookupError, TypeError):  # no record, or a damaged one
            pass
        return None

    def write(self, lines: Sequence[str], outputs: Sequence[Path]) -> None:
        """Keep that the run is finished, and what it printed. ``outputs`` are in its folder.

        Raises ``StorageFull``.
        """
        extents = {str(path.relative_to(self._out)): _extent(path) for path in outputs}
        record = {"key": self._key, "lines": [*lines], "outputs": extents}
        with replacing(self._path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _key(selection: ImageSelection, given: Mapping[str, Any]) -> str:
    about = {"version": installed_version(), "root": str(selection.root), **given}
    whole = hashlib.sha256(repr(sorted(about.items())).encode("utf-8", "surrogatepass"))
    for image in selection.walk():
        whole.update(f"{image.key} {image.refusal}\n".encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def _extent(path: Path) -> list[int]:
    """Number and bytes of the files of an output, and when the last was changed. Raises
    ``OSError``."""
    count = size = changed = 0
    for found in _stats(path):  # one at a time: there may be a million
        count, size, changed = count + 1, size + found.st_size, max(changed, found.st_mtime_ns)
    return [count, size, changed]


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of all files in a folder and below it."""
    if not path.is_dir():
        yield path.lstat()
        return
    folders = [os.fspath(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False)
