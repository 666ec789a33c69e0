"""Models for tests of the agent: a registry of plain folders, and scripted detectors."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from students import write_student

from secondlook.core.types import Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import StudentManifest, read_manifest
from secondlook.edge.model_trial import LoadedModel, TrialListener


@dataclass(frozen=True)
class FolderVersion:
    """What the client's ``ModelVersion`` is, as far as a device needs it."""

    version: int
    digest: str
    files: dict[str, tuple[str, int]]
    signature: bytes = b""


@dataclass
class FolderRegistry:
    """Versions that lie in folders; ``wanted`` is promoted, ``failing`` is raised at each call."""

    root: Path
    wanted: int = 0
    failing: Exception | None = None
    downloads: list[int] = field(default_factory=list)
    spoil: Callable[[Path], None] | None = None
    """Applied to each download, as a bad connection or disk would."""
    sign: Callable[[str, str], bytes] = lambda name, digest: b""

    def add(self, version: int, **student: object) -> Path:
        """A student as that version, promoted."""
        folder = self.root / str(version)
        write_student(folder, seed=version, **student)  # type: ignore[arg-type]
        self.wanted = version
        return folder

    def current(self, name: str) -> FolderVersion | None:
        """The promoted version."""
        if self.failing is not None:
            raise self.failing
        if not self.wanted:
            return None
        manifest = read_manifest(self.root / str(self.wanted))
        files = {name: (file.sha256, file.size) for name, file in manifest.files.items()}
        signature = self.sign(name, manifest.digest)
        return FolderVersion(self.wanted, manifest.digest, files, signature)

    def download(self, name: str, version: int, folder: Path, files: Sequence[str]) -> None:
        """Copies; without any check."""
        self.downloads.append(version)
        if self.failing is not None:
            raise self.failing
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*files, "manifest.json"):
            shutil.copy(self.root / str(version) / file, folder / file)
        if self.spoil is not None:
            self.spoil(folder)


class ScriptedDetector:
    """Finds one dog in the middle; ``on_image`` is called first and may raise or take its time."""

    def __init__(
        self, manifest: StudentManifest, on_image: Callable[[Pixels], object] | None = None
    ) -> None:
        self.manifest = manifest
        self.on_image = on_image or (lambda pixels: None)
        self.calls = 0
        self.closed = False
        self.threads: set[int] = set()

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """One detection of class 1, score 0.6, on each."""
        assert not self.closed
        self.threads.add(threading.get_ident())
        self.calls += 1
        for pixels in images:
            self.on_image(pixels)
        box = np.array([[10, 10, 20, 20]], np.float32)
        return [
            Detections(box, np.array([0.6], np.float32), np.array([1], np.int64)) for _ in images
        ]

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """The scores themselves."""
        return found.scores

    def close(self) -> None:
        """Once only."""
        assert not self.closed
        self.closed = True


class RecordingListener(TrialListener):
    """Records how the trials of a runner go, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, str]] = []

    def accepted(self, model: LoadedModel) -> None:
        """The trial is over."""
        self.events.append(("accepted", model.version, ""))

    def refused(self, model: LoadedModel, why: str) -> None:
        """The trial is lost."""
        self.events.append(("refused", model.version, why))
