"""Keeps a device's model that of the server: newer ones, or older ones after a roll-back.

A thread asks the server now and then which version is promoted. When that is not the one in use, it
is downloaded, compared with its hashes, tried in a process of its own, opened (which runs its
self-test) and offered to the ``ModelRunner``, which reports how its trial ended. What does not pass
is refused by its digest, for good.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from secondlook.core.signing import SignatureChecker
from secondlook.detector.manifest import read_manifest, verify_files
from secondlook.detector.runtime import required_files
from secondlook.edge.model_cache import ModelCache
from secondlook.edge.model_trial import Detector, LoadedModel, TrialListener
from secondlook.edge.settings import EdgeSettings
from secondlook_client.errors import (
    Cancelled,
    Damaged,
    MissingExtra,
    NotFound,
    SecondlookError,
    Unavailable,
)

log = logging.getLogger(__name__)

CLOSE_S = 2.0
MAX_DAMAGED = 3
"""Downloads of one model that did not match its hashes, before it is refused."""


class RemoteVersion(Protocol):
    """A version on the server: ``secondlook_client.models.ModelVersion``."""

    @property
    def version(self) -> int:
        """From 1."""

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest."""

    @property
    def files(self) -> Mapping[str, Any]:
        """By file name."""

    @property
    def signature(self) -> bytes:
        """By the server's key; or empty."""


class ModelRegistry(Protocol):
    """What ``secondlook_client.models.Models`` does."""

    def current(self, name: str) -> Any:
        """The promoted ``RemoteVersion``, or None."""

    def download(self, name: str, version: int, folder: Path, files: Sequence[str]) -> Any:
        """Download these files into ``folder``, which appears whole or not at all."""


class ModelUpdater(TrialListener):
    """Follows the promotions of one model. The runner calls the listener's methods."""

    def __init__(
        self,
        settings: EdgeSettings,
        registry: ModelRegistry | None,
        cache: ModelCache,
        try_model: Callable[[Path, Callable[[], bool]], None],
        open_model: Callable[[Path], Detector],
        offer: Callable[[LoadedModel], None],
        signatures: SignatureChecker | None = None,
    ) -> None:
        """``registry`` None: no server, only what is on the disk.

        ``try_model`` raises for a model that must not be opened in this process; its second
        argument tells whether to stop. ``offer`` is the runner's. Without ``signatures`` none is
        asked for.
        """
        self._settings = settings
        self._registry = registry
        self._cache = cache
        self._try = try_model
        self._open = open_model
        self._offer = offer
        self._signatures = signatures
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._in_use: LoadedModel | None = None
        self._on_trial: LoadedModel | None = None
        self._damaged: dict[str, int] = {}
        self.problem = ""
        """Why models cannot be updated at present, for the health file."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model-updater", daemon=True)

    def start(self) -> None:
        """Ask the server in the background from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking; a download in progress is left to its daemon thread."""
        self._closed = True
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            return
        self._handle_events()
        if self._on_trial is not None:
            self._cache.end_trial(self._on_trial.digest)

    def survived(self, model: LoadedModel) -> None:
        """The process has survived the first frame of ``model``."""
        self._events.put(lambda: self._cache.end_trial(model.digest))

    def accepted(self, model: LoadedModel) -> None:
        """The runner uses ``model`` from now on."""
        self._events.put(lambda: self._record_accepted(model))

    def refused(self, model: LoadedModel, why: str) -> None:
        """``model`` has lost its trial."""
        self._events.put(lambda: self._record_refused(model, why))

    def offer_last_good(self) -> bool:
        """Offer the model that worked last, if any is left on the disk. Waits for the self-test."""
        for version, digest in self._cache.good:
            folder = self._cache.path(version)
            try:
                model = self._opened(folder, version, digest, proven=True)
            except MissingExtra:
                raise
            except Exception as cause:  # an old disk may return anything
                log.warning("version %d on this disk cannot be used: %s", version, cause)
                self._cache.discard(version)
                continue
            self._give(model)
            return True
        return False

    def poll(self) -> bool:
        """Ask once; True when a model was offered.

        Raises ``SecondlookError`` when the server cannot be asked, and that or ``OSError`` when the
        model cannot be downloaded or opened at present.
        """
        self._handle_events()
        if self._registry is None:
            return False
        wanted = self._registry.current(self._settings.model)
        if wanted is None or not self._is_new(wanted):
            return False
        if self._signatures is not None:  # before a byte of it is here
            self._signatures.check(self._settings.model, wanted.digest, wanted.signature)
        folder = self._download(self._registry, wanted)
        if folder is None or not self._cache.begin_trial(wanted.digest):
            return False
        try:
            proven = self._cache.is_good(wanted.digest)
            model = self._opened(folder, wanted.version, wanted.digest, proven)
        except (OSError, MemoryError, MissingExtra, Cancelled, Unavailable):
            self._cache.end_trial(wanted.digest)  # no fault of the model
            raise
        except Exception as cause:  # onnxruntime may raise anything on an unknown file
            self._refuse(wanted.version, wanted.digest, str(cause))
            return False
        self._give(model)
        return True

    def _is_new(self, wanted: RemoteVersion) -> bool:
        known = self._on_trial or self._in_use
        if known is not None and known.digest == wanted.digest:
            return False
        return wanted.digest not in self._cache.refused

    def _download(self, registry: ModelRegistry, wanted: RemoteVersion) -> Path | None:
        """Its folder, checked by hash; None when it was refused because it always comes damaged."""
        folder = self._cache.path(wanted.version)
        files = required_files(self._settings.precision, wanted.files)
        if folder.is_dir():
            try:
                _check(folder, wanted.digest, files)
                return folder
            except Damaged:  # incomplete, or of another server
                self._cache.discard(wanted.version)
        log.info("downloading version %d of %s", wanted.version, self._settings.model)
        try:
            registry.download(self._settings.model, wanted.version, folder, files)
            _check(folder, wanted.digest, files)
        except Damaged as cause:
            self._cache.discard(wanted.version)
            count = self._damaged.get(wanted.digest, 0) + 1
            self._damaged = {wanted.digest: count}
            if count < MAX_DAMAGED:
                raise
            self._refuse(wanted.version, wanted.digest, str(cause))
            return None
        return folder

    def _opened(self, folder: Path, version: int, digest: str, proven: bool) -> LoadedModel:
        if not proven:
            self._try(folder, lambda: self._closed)
        return LoadedModel(version, digest, self._open(folder), proven)

    def _give(self, model: LoadedModel) -> None:
        self._on_trial = model
        self._offer(model)

    def _refuse(self, version: int, digest: str, why: str) -> None:
        log.error("version %d of %s is refused: %s", version, self._settings.model, why)
        self._cache.refuse(digest, why)

    def _record_accepted(self, model: LoadedModel) -> None:
        self._in_use, self._on_trial = model, None
        if model.version:
            self._cache.mark_good(model.version, model.digest)
        log.info("version %d of %s is in use", model.version, self._settings.model)

    def _record_refused(self, model: LoadedModel, why: str) -> None:
        self._on_trial = None
        self._refuse(model.version, model.digest, why)
        if self._in_use is None and not self._closed:
            self.offer_last_good()

    def _handle_events(self) -> None:
        """Record what the runner reported, in this thread: only one writes to the cache."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if event is not None:
                event()

    def _run(self) -> None:
        while not self._closed:
            try:
                self.poll()
                self.problem = ""
            except Exception as cause:  # it runs for weeks: the next attempt may succeed
                self._report_problem(cause)
            self._wait(self._settings.poll_s * (0.5 + random.random()))  # devices spread

    def _report_problem(self, cause: Exception) -> None:
        expected = isinstance(cause, SecondlookError)
        problem = str(cause) if expected else f"{type(cause).__name__}: {cause}"
        if problem != self.problem:
            log.warning("models cannot be updated: %s", problem)
        self.problem = problem

    def _wait(self, seconds: float) -> None:
        """Wait until the next poll, but handle events at once."""
        ends = time.monotonic() + seconds
        while not self._closed and (left := ends - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                return
            if event is not None:
                event()


def _check(folder: Path, digest: str, files: Sequence[str]) -> None:
    """Raises ``Damaged`` unless the folder holds these files of the model with that digest."""
    try:
        manifest = read_manifest(folder)
        if manifest.digest != digest:
            raise Damaged("the student that was downloaded is not the one that the server names")
        verify_files(folder, manifest, files)
    except NotFound as missing:
        raise Damaged(str(missing)) from missing
