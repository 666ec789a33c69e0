"""The promoted version of a model, opened from the store and followed as others are promoted."""

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from secondlook.detector.manifest import FILE_NAME, FP32, SELF_TEST
from secondlook.detector.runtime import OnnxDetector
from secondlook.detector.trial import open_tried
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.model_versions import StudentVersion
from secondlook_client.errors import NotFound, Unavailable

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Between two checks of which version is promoted."""


def open_version(
    blobs: Blobs,
    student: StudentVersion,
    threads: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> OnnxDetector:
    """Try the student in a process of its own, then open it here.

    Its files are on the disk only meanwhile. Raises what ``open_tried`` and the blob store raise.
    """
    with tempfile.TemporaryDirectory(prefix="secondlook-") as scratch:
        folder = Path(scratch)
        (folder / FILE_NAME).write_text(student.manifest, encoding="ascii")
        for name in (FP32, SELF_TEST):
            (folder / name).write_bytes(blobs.get(student.files[name].sha256))
        return open_tried(folder, "fp32", threads, stopped=stopped)


class PromotionWatcher:
    """A context that hands over the promoted version of a model, now and after each promotion.

    It is opened for the first time on entering. A version that cannot be opened is logged, and the
    previous one stays in use; it is tried again only once another one has been promoted.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        use: Callable[[OnnxDetector], None],
        threads: int = 0,
        every_s: float = POLL_S,
    ) -> None:
        """``use`` takes each version, before the previous one is closed."""
        self._store, self._name, self._use = store, name, use
        self._threads, self._every_s = threads, every_s
        self._digest = ""
        self._detector: OnnxDetector | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="promotion-watcher", daemon=True)

    def __enter__(self) -> "PromotionWatcher":
        self._check()
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
        self._stopped.set()
        self._thread.join()
        if self._detector:
            self._detector.close()

    def _follow(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._check()

    def _check(self) -> None:
        try:
            current = self._store.model_versions.get(self._name)
        except NotFound:
            return
        except Exception:  # a database that is away for a while
            log.exception("the promoted version of '%s' cannot be read now", self._name)
            return
        if current.digest != self._digest:
            self._digest = current.digest
            self._switch_to(current)

    def _switch_to(self, student: StudentVersion) -> None:
        version = f"version {student.version} of '{self._name}'"
        try:
            detector = self._opened(student)
        except Unavailable as cause:  # no fault of the version: it is tried again
            log.warning("%s cannot be used now: %s", version, cause)
            self._digest = ""
            return
        except Exception as cause:  # whatever it is, the previous version goes on
            log.error("%s cannot be used: %s", version, cause)
            return
        before, self._detector = self._detector, detector
        if before:
            before.close()
        log.info("%s is in use", version)

    def _opened(self, student: StudentVersion) -> OnnxDetector:
        detector = open_version(self._store.blobs, student, self._threads, self._stopped.is_set)
        try:
            self._use(detector)
        except BaseException:
            detector.close()
            raise
        return detector
