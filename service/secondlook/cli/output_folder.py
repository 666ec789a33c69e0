"""The folder that a run writes to, and what it writes when its images are labelled.

One process at a time uses a folder, for one run only: ``run.json`` says which run it is and which
job has its results, and a different run is refused.
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

from secondlook.config.settings import RENAMED, ImageSettings
from secondlook.core.files import explain_write_errors, one_line, remove, replacing
from secondlook.core.image_folder import ImageFile, read_image_file
from secondlook.core.images import decode
from secondlook.core.types import Pixels
from secondlook.datasets.writers import LABEL_FORMATS, UNSPLIT, Labels, write_format
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook_client.errors import BadImage, OutputExists

RUN, FAILED, GALLERY, STORE = "run.json", "failed.jsonl", "gallery.html", ".store"
OWN_FILES = (*LABEL_FORMATS, GALLERY, FAILED, STORE, RUN)
"""Everything that a run writes. ``clear`` removes these and nothing else, in this order: as long as
``run.json`` exists, the others are known to be a run's."""
JOB = "job"


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be labelled."""

    name: str
    reason: str
    """A stable word for programs."""
    message: str


class OutputFolder:
    """One run's folder. A context manager; raises ``OutputExists`` when it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_job = ""
        """The job of the run that ``clear`` removed, if there was one."""
        with explain_write_errors(path):
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
        """The data folder of a service that is started for this run."""
        return self.path / STORE

    def clear(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        if not (self.path / RUN).exists():
            return
        before = _read(self.path / RUN)
        self.left_job = str(before.get(JOB, "")) if isinstance(before, dict) else ""
        for name in OWN_FILES:
            remove(self.path / name)

    def claim(self, identity: Mapping[str, Any]) -> str:
        """The name of the run's job: a new one where the folder has no run yet.

        ``identity``: JSON values, which must all be equal for a run to be continued. Raises
        ``OutputExists`` when the folder holds another run.
        """
        path = self.path / RUN
        if not path.exists():
            self._refuse_foreign_files()
            job = f"label {self.path.resolve().name or 'images'} {uuid4().hex[:8]}"
            job = one_line(job)[-200:].strip()
            with replacing(path) as part:
                text = json.dumps({JOB: job, **identity}, indent=2)
                part.write_text(text + "\n", encoding="utf-8")
            return job
        before = _read(path)
        if isinstance(before, dict):
            if isinstance(settings := before.get("settings"), dict):
                before["settings"] = {RENAMED.get(name, name): settings[name] for name in settings}
            job = str(before.pop(JOB, ""))
            if job and before == identity:
                return job
        raise OutputExists(
            f"{self.path} has a run with {_difference(before, identity)}; give another --out to "
            "keep it, or --fresh to start over"
        )

    def _refuse_foreign_files(self) -> None:
        made = (name for name in OWN_FILES if name != STORE)  # a crash may leave that one alone
        foreign = next((name for name in made if os.path.lexists(self.path / name)), None)
        if foreign:
            raise OutputExists(
                f"{self.path} has a {foreign} that was not written by a run; move it away or give "
                "another --out"
            )


def _lock(out: Path) -> int:
    """Lock the folder; the system releases it when the process ends, however it ends."""
    with explain_write_errors(out):
        handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return handle  # a file system without locks; better unlocked than not at all
        os.close(handle)
        raise OutputExists(
            f"{out} is in use by another run; wait for it or give another --out"
        ) from None
    return handle


def _read(path: Path) -> Any:
    """The content of ``run.json``; None when it cannot be read."""
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


@dataclass(frozen=True)
class WrittenOutputs:
    """The counts of the whole run, and the files that were written."""

    stats: RunStats
    failed: int
    """Images without a result; ``failed.jsonl`` has the reasons."""
    paths: tuple[Path, ...]


def write_outputs(
    out: Path,
    labels: Labels,
    load: Callable[[str], Pixels],
    failures: Iterable[FailedImage],
    *,
    formats: Sequence[str],
    shown: int,
) -> WrittenOutputs:
    """Write the formats, the gallery (at most ``shown`` images; 0: none) and ``failed.jsonl``.

    ``load`` gives the pixels of an image by its name. Everything is streamed, so memory does not
    grow with the run. After ``StorageFull`` nothing is lost, and the same command writes the rest
    later.
    """
    failed = _write_failures(out / FAILED, failures)
    stats = RunStats.of(result for _, result in labels.results())
    paths = [write_format(name, {UNSPLIT: labels}, out) for name in formats]
    if shown:
        best = gallery.pick(labels.results(), shown)
        title = ", ".join(labels.classes[:4])
        if len(labels.classes) > 4:
            title += f" and {len(labels.classes) - 4} more"
        paths.append(gallery.write(out / GALLERY, title, stats, best, load))
    return WrittenOutputs(stats, failed, tuple(paths))


def _write_failures(path: Path, failures: Iterable[FailedImage]) -> int:
    """Write a line of JSON for each image; how many there are."""
    count = 0
    with replacing(path) as part, part.open("wb") as file:
        for image in failures:
            file.write(json.dumps(asdict(image)).encode("ascii") + b"\n")
            count += 1
    return count


def image_loader(root: Path, limits: ImageSettings) -> Callable[[str], Pixels]:
    """A function from an image's name to its upright pixels; raises ``BadImage`` if it is gone."""

    def load(name: str) -> Pixels:
        path = root / name
        try:
            found = path.stat()
        except OSError as failure:
            raise BadImage(f"the image is gone ({failure.strerror})") from None
        source = ImageFile(name, path, found.st_size, found.st_mtime_ns)
        return decode(read_image_file(source, limits.max_image_bytes), name, limits).pixels

    return load
