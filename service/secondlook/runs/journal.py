"""What a run has done, on disk, line by line: it survives Ctrl-C, kill -9 and a full disk.

``run.json`` says what the run is; a different one is refused. ``results.jsonl`` gets one whole
line a labelled picture, ``failed.jsonl`` one a picture that could not be labelled. A line is
written in one call and a torn one at the end is cut off at the next start, so what a line says
happened, and only that. In memory a picture is two numbers, whatever its results weigh.
"""

import errno
import fcntl
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from secondlook.atomic import explaining, remove, replacing
from secondlook.errors import OutputExists
from secondlook.formats import OUTPUTS
from secondlook.runs.folder import Source
from secondlook.runs.lines import Lines, as_line
from secondlook_client.results import LabelResult

RUN, RESULTS, FAILED, GALLERY = "run.json", "results.jsonl", "failed.jsonl", "gallery.html"
OWN_FILES = (*OUTPUTS, GALLERY, FAILED, RESULTS, RUN)
"""Everything that a run writes; ``fresh`` removes these and nothing else, in this order: while
there is ``run.json`` the others are known to be ours."""


class Journal:
    """One run's folder, held by one process at a time. A context manager.

    Raises ``OutputExists`` when the folder holds another run, or is in use.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> None:
        """``identity``: plain JSON values; all must be equal for a run to be continued."""
        self.out = out
        with explaining(out):
            out.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(out)
        try:
            if fresh and (out / RUN).exists():
                for name in OWN_FILES:
                    remove(out / name)
            _claim(out, identity)
            self._results = Lines(out / RESULTS)
            self._failed = Lines(out / FAILED)
            self._load()
        except BaseException:
            os.close(self._lock)
            raise

    def _load(self) -> None:
        self._keys, self._places = array("Q"), array("Q")
        for place, plain in self._results:
            self._keys.append(plain["key"])
            self._places.append(place)
        self._before = np.unique(np.array(self._keys, dtype=np.uint64))
        final = [plain["key"] for _, plain in self._failed if not plain["transient"]]
        self._gave_up = np.unique(np.array(final, dtype=np.uint64))
        self._seen = array("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._results.close()
        self._failed.close()
        os.close(self._lock)

    def is_done(self, source: Source) -> bool:
        """True when an earlier start labelled this picture, unchanged since."""
        return _holds(self._before, source.key)

    def gave_up(self, source: Source) -> bool:
        """True when an earlier start could not label it, and trying again is no use."""
        return _holds(self._gave_up, source.key)

    def see(self, source: Source) -> None:
        """Note that the picture belongs to the run as it stands; outputs keep this order."""
        self._seen.append(source.key)

    def record(self, source: Source, result: LabelResult) -> None:
        """Keep a result. Raises ``StorageFull``, and then nothing of it is kept."""
        plain = {"key": source.key, "name": source.name, "result": result.to_dict()}
        place = self._results.append(plain)
        self._keys.append(source.key)
        self._places.append(place)

    def record_failure(
        self, source: Source, reason: str, message: str, *, transient: bool = False
    ) -> None:
        """Keep why there is no result; a ``transient`` cause is tried again at the next start."""
        plain = {"name": source.name, "reason": reason, "message": message}
        self._failed.append({"key": source.key, **plain, "transient": transient})

    def sync(self) -> None:
        """Make what was recorded survive a power cut, too."""
        self._results.sync()
        self._failed.sync()

    def results(self) -> Iterator[tuple[str, LabelResult]]:
        """(name, result) of every picture seen and labelled, in the order they were seen."""
        for _, place in self._current():
            plain = self._results.at(place)
            yield plain["name"], LabelResult.from_dict(plain["result"])

    def tidy_failures(self) -> int:
        """Leave in ``failed.jsonl`` one line for each seen picture that has no result.

        Returns how many those are.
        """
        done = np.unique(np.array([key for key, _ in self._current()], dtype=np.uint64))
        seen = np.unique(np.array(self._seen, dtype=np.uint64))
        last = {
            plain["key"]: place
            for place, plain in self._failed
            if _holds(seen, plain["key"]) and not _holds(done, plain["key"])
        }
        path = self.out / FAILED
        with replacing(path) as part, part.open("wb") as file:
            for place in last.values():
                file.write(as_line(self._failed.at(place)))
        self._failed.close()
        self._failed = Lines(path)
        return len(last)

    def _current(self) -> Iterator[tuple[int, int]]:
        """(key, place of its line) of every seen picture that has a result."""
        keys = np.array(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        for key in self._seen:
            row = int(np.searchsorted(ranked, np.uint64(key)))
            if row < len(ranked) and ranked[row] == key:
                yield key, self._places[int(order[row])]


def read_results(path: Path) -> Iterator[tuple[str, LabelResult]]:
    """(name, result) of every line of a finished run's ``results.jsonl``, as they were labelled."""
    with path.open("rb") as file:
        for line in file:
            plain = json.loads(line)
            yield plain["name"], LabelResult.from_dict(plain["result"])


def _holds(ranked: NDArray[np.uint64], key: int) -> bool:
    row = int(np.searchsorted(ranked, np.uint64(key)))
    return row < len(ranked) and int(ranked[row]) == key


def _lock(out: Path) -> int:
    """Hold the folder; released by the system when the process ends, however it ends."""
    with explaining(out):
        handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return handle  # a file system without locks; better unguarded than not at all
        os.close(handle)
        raise OutputExists(
            f"{out} is in use by another run; wait for it or give another --out"
        ) from None
    return handle


def _claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Write ``run.json``, or check that the one there says the same."""
    path = out / RUN
    if not path.exists():
        foreign = [name for name in OWN_FILES if os.path.lexists(out / name)]
        if foreign:
            raise OutputExists(
                f"{out} holds a {foreign[0]} that no run here made; move it away or give another "
                "--out"
            )
        with replacing(path) as part:
            part.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before == identity:
        return
    raise OutputExists(
        f"{out} holds a run with {_difference(before, identity)}; give another --out to keep it, "
        "or --fresh to start over"
    )


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    if not isinstance(before, dict):
        return "a run.json that cannot be read"
    for key in (*now, *before):
        if before.get(key) != now.get(key):
            return f"different {key} ({_short(before.get(key))}, now {_short(now.get(key))})"
    return "other settings"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
