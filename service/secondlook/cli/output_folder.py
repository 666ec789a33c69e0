"""The folder that a run writes into: held by one process, and never another run's.

``run.json`` says what the run is and which job has its results; a different run is refused.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from secondlook.core.errors import BadImage, OutputExists
from secondlook.core.files import explaining, remove, replacing
from secondlook.core.image_folder import Source, read
from secondlook.core.images import ImageLimits, decode
from secondlook.core.types import Pixels
from secondlook.datasets.writers import OUTPUTS, WRITERS, Labels
from secondlook.evaluation.run_stats import Totals
from secondlook.reports import gallery

RUN, FAILED, GALLERY, STORE = "run.json", "failed.jsonl", "gallery.html", ".store"
OWN_FILES = (*OUTPUTS, GALLERY, FAILED, STORE, RUN)
"""Everything that a run writes; ``clear`` removes these and nothing else, in this order: while
there is ``run.json`` the others are known to be ours."""
JOB = "job"


@dataclass(frozen=True)
class Refused:
    """An image that cannot be sent."""

    name: str
    reason: str
    """Stable word."""
    message: str


class OutFolder:
    """One run's folder. A context manager; raises ``OutputExists`` when it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_job = ""
        """The job of the run that ``clear`` removed, if there was one."""
        with explaining(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    @property
    def store(self) -> Path:
        """Where a service of the run's own keeps what it does."""
        return self.path / STORE

    def clear(self) -> None:
        """Remove what an earlier run left, and nothing that no run made."""
        if not (self.path / RUN).exists():
            return
        before = _read(self.path / RUN)
        self.left_job = str(before.get(JOB, "")) if isinstance(before, dict) else ""
        for name in OWN_FILES:
            remove(self.path / name)

    def claim(self, identity: Mapping[str, Any]) -> str:
        """The name of the run's job: a new one where the folder has no run yet.

        ``identity``: plain JSON values; all must be equal for a run to be continued. Raises
        ``OutputExists`` when the folder holds another run.
        """
        path = self.path / RUN
        if not path.exists():
            self._refuse_foreign_files()
            job = f"label {self.path.resolve().name or 'images'} {uuid4().hex[:8]}"
            job = "".join(c if c.isprintable() else "?" for c in job)[-200:].strip()
            with replacing(path) as part:
                text = json.dumps({JOB: job, **identity}, indent=2)
                part.write_text(text + "\n", encoding="utf-8")
            return job
        before = _read(path)
        if isinstance(before, dict):
            job = str(before.pop(JOB, ""))
            if job and before == identity:
                return job
        raise OutputExists(
            f"{self.path} holds a run with {_difference(before, identity)}; give another --out "
            "to keep it, or --fresh to start over"
        )

    def _refuse_foreign_files(self) -> None:
        made = (name for name in OWN_FILES if name != STORE)  # a crash may leave that one alone
        foreign = next((name for name in made if os.path.lexists(self.path / name)), None)
        if foreign:
            raise OutputExists(
                f"{self.path} holds a {foreign} that no run here made; move it away or give "
                "another --out"
            )


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


def _read(path: Path) -> Any:
    """What is in ``run.json``; None when that cannot be told."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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


# What a run leaves behind once its images are labelled.


@dataclass(frozen=True)
class Written:
    """The figures of the whole run and the files they are in."""

    totals: Totals
    failed: int
    """Images without a result; ``failed.jsonl`` has the reasons."""
    paths: tuple[Path, ...]


def write_outputs(
    out: Path,
    labels: Labels,
    refused: Iterable[Refused],
    *,
    formats: Sequence[str],
    shown: int,
    limits: ImageLimits,
) -> Written:
    """Write the formats, the gallery (at most ``shown`` images; 0: none) and ``failed.jsonl``.

    Everything is streamed, so memory does not grow with the run. Raises ``StorageFull``; nothing
    is lost then, and the same command writes the rest later.
    """
    failed = _write_failures(out / FAILED, refused)
    totals = Totals.of(result for _, result in labels.results())
    paths = [WRITERS[name](labels, out) for name in formats]
    if shown:
        best = gallery.pick(labels.results(), shown)
        title = ", ".join(labels.classes[:4])
        if len(labels.classes) > 4:
            title += f" and {len(labels.classes) - 4} more"
        load = loader(labels.root, limits)
        paths.append(gallery.write(out / GALLERY, title, totals, best, load))
    return Written(totals, failed, tuple(paths))


def _write_failures(path: Path, refused: Iterable[Refused]) -> int:
    """One line of JSON an image; how many there are."""
    count = 0
    with replacing(path) as part, part.open("wb") as file:
        for image in refused:
            file.write(json.dumps(asdict(image)).encode("ascii") + b"\n")
            count += 1
    return count


def loader(root: Path, limits: ImageLimits) -> Callable[[str], Pixels]:
    """Gives the upright pixels of an image by its name; raises ``BadImage`` when it has gone."""

    def load(name: str) -> Pixels:
        path = root / name
        try:
            found = path.stat()
        except OSError as failure:
            raise BadImage(f"the image is not there any more ({failure.strerror})") from None
        source = Source(name, path, found.st_size, found.st_mtime_ns)
        return decode(read(source, limits.max_bytes), name, limits).pixels

    return load
