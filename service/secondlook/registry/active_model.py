"""Students of a store at work in this process."""

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from secondlook.core.errors import NotFound
from secondlook.detector.manifest import FILE_NAME, FP32, SELF_TEST
from secondlook.detector.runtime import OnnxDetector
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.model_versions import Student

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Between looks at which version is promoted."""


def opened(blobs: Blobs, student: Student, threads: int = 0) -> OnnxDetector:
    """The student, running; its files are on the disk only while it is opened.

    Raises what ``OnnxDetector.open`` and the blob store raise.
    """
    with tempfile.TemporaryDirectory(prefix="secondlook-") as scratch:
        folder = Path(scratch)
        (folder / FILE_NAME).write_text(student.manifest, encoding="ascii")
        for name in (FP32, SELF_TEST):
            (folder / name).write_bytes(blobs.get(student.files[name].sha256))
        return OnnxDetector.open(folder, "fp32", threads)


class Promoted:
    """Hands over the promoted version of a model, now and whenever that is another one; a context.

    The first look is taken on entering. What cannot be opened is told in the log, and the version
    before stays; it is tried again only once another one is promoted.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        adopt: Callable[[OnnxDetector], None],
        threads: int = 0,
        every_s: float = EVERY_S,
    ) -> None:
        """``adopt`` takes each version before the one before it is closed."""
        self._store, self._name, self._adopt = store, name, adopt
        self._threads, self._every_s = threads, every_s
        self._digest = ""
        self._detector: OnnxDetector | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="promoted", daemon=True)

    def __enter__(self) -> "Promoted":
        self._look()
        if not self._digest:
            log.warning(
                "no version of '%s' is promoted yet; until one is, the models label everything",
                self._name,
            )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._detector:
            self._detector.close()

    def _follow(self) -> None:
        while not self._over.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        try:
            current = self._store.students.get(self._name)
        except NotFound:
            return
        except Exception:  # a database that is away for a while
            log.exception("which version of '%s' is promoted cannot be told now", self._name)
            return
        if current.digest != self._digest:
            self._digest = current.digest
            self._take(current)

    def _take(self, student: Student) -> None:
        what = f"version {student.version} of '{self._name}'"
        try:
            detector = self._adopted(student)
        except Exception as cause:  # whatever it is, the version before goes on
            log.error("%s cannot be used: %s", what, cause)
            return
        before, self._detector = self._detector, detector
        if before:
            before.close()
        log.info("%s labels what it is certain of", what)

    def _adopted(self, student: Student) -> OnnxDetector:
        detector = opened(self._store.blobs, student, self._threads)
        try:
            self._adopt(detector)
        except BaseException:
            detector.close()
            raise
        return detector
