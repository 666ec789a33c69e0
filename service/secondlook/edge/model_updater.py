"""Newer models, or older ones where the server went back: fetched, checked and offered.

A thread asks the server every so often which version is current. Another one than that in use is
downloaded, compared with its hashes, opened (which runs its self-test) and offered to the slot;
the slot says how its trial ended. What does not pass is refused by its digest, for good.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from secondlook.core.errors import Damaged, InvalidInput, MissingExtra, NotFound, SecondlookError
from secondlook.detector.manifest import read_manifest, verify_files
from secondlook.detector.runtime import files_needed
from secondlook.edge.model_cache import Shelf
from secondlook.edge.model_trial import Detector, Loaded
from secondlook_client import errors as wire

log = logging.getLogger(__name__)

CLOSE_S = 2.0
MAX_DAMAGED = 3
"""Downloads of one model that did not match its hashes, before it is refused."""


class Version(Protocol):
    """A version as the server names it: ``secondlook_client.models.ModelVersion``."""

    @property
    def version(self) -> int:
        """From 1 up."""

    @property
    def digest(self) -> str:
        """Of its manifest."""

    @property
    def files(self) -> Mapping[str, Any]:
        """By plain name."""


class Registry(Protocol):
    """What ``secondlook_client.models.Models`` does."""

    def current(self, name: str) -> Any:
        """The promoted ``Version``, or None."""

    def download(self, name: str, version: int, folder: Path, files: Sequence[str]) -> Any:
        """Fetch these files into ``folder``, which appears whole or not at all."""


@dataclass(frozen=True)
class UpdateSettings:
    """What is asked for, and how often."""

    name: str
    """Of the model on the server."""
    every_s: float = 60.0
    """Between two questions; half as much to half as much again, so that devices spread."""
    precision: str = "auto"
    """``fp32``, ``int8`` or ``auto``, the one that is quicker here."""


class Updates:
    """The models of one name. ``kept`` and ``refused`` are for the slot, from its thread."""

    def __init__(
        self,
        settings: UpdateSettings,
        registry: Registry | None,
        shelf: Shelf,
        open_model: Callable[[Path], Detector],
        offer: Callable[[Loaded], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``registry`` None: no server, only what is on the disk. ``offer`` is the slot's."""
        self._settings = settings
        self._registry = registry
        self._shelf = shelf
        self._open = open_model
        self._offer = offer
        self._draw = draw
        self._told: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._in_use: Loaded | None = None
        self._tried: Loaded | None = None
        self._damaged: dict[str, int] = {}
        self.problem = ""
        """Why there is no news of models at present, for the health file."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)

    def start(self) -> None:
        """From now on, ask the server in the background."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more; a download that is under way is left to its daemon thread."""
        self._closed = True
        self._told.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            return
        self._hear()
        if self._tried is not None:
            self._shelf.untried(self._tried.digest)

    def survived(self, model: Loaded) -> None:
        """``model`` did not end the process with its first frame."""
        self._told.put(lambda: self._shelf.untried(model.digest))

    def kept(self, model: Loaded) -> None:
        """The slot uses ``model`` from now on."""
        self._told.put(lambda: self._has_kept(model))

    def refused(self, model: Loaded, why: str) -> None:
        """The slot has gone back from ``model``."""
        self._told.put(lambda: self._has_refused(model, why))

    def offer_last_good(self) -> bool:
        """Offer the model that worked last, if any is left on the disk. Waits for the self-test."""
        for version, digest in self._shelf.good:
            folder = self._shelf.path(version)
            try:
                model = self._opened(folder, version, digest, proven=True)
            except MissingExtra:
                raise
            except Exception as cause:  # a disk of years gives anything
                log.warning("version %d on this disk cannot be used: %s", version, cause)
                self._shelf.discard(version)
                continue
            self._give(model)
            return True
        return False

    def poll(self) -> bool:
        """Ask once; True when a model was offered.

        Raises ``ClientError`` when the server cannot be asked, and ``SecondlookError`` or
        ``OSError`` when the model cannot be had at present.
        """
        self._hear()
        if self._registry is None:
            return False
        wanted = self._registry.current(self._settings.name)
        if wanted is None or not self._is_news(wanted):
            return False
        folder = self._fetched(self._registry, wanted)
        if folder is None or not self._shelf.tried(wanted.digest):
            return False
        try:
            proven = self._shelf.is_good(wanted.digest)
            model = self._opened(folder, wanted.version, wanted.digest, proven)
        except (OSError, MemoryError, MissingExtra):
            self._shelf.untried(wanted.digest)  # no fault of the model
            raise
        except Exception as cause:  # what onnxruntime raises on a stranger's file is anything
            self._refuse(wanted.version, wanted.digest, str(cause))
            return False
        self._give(model)
        return True

    def _is_news(self, wanted: Version) -> bool:
        known = self._tried or self._in_use
        if known is not None and known.digest == wanted.digest:
            return False
        return wanted.digest not in self._shelf.refused

    def _fetched(self, registry: Registry, wanted: Version) -> Path | None:
        """Its folder, checked by hash; None when it was refused for what the server gives."""
        folder = self._shelf.path(wanted.version)
        files = files_needed(self._settings.precision, wanted.files)
        if folder.is_dir():
            try:
                _check(folder, wanted.digest, files)
                return folder
            except (Damaged, NotFound):  # half of it is gone, or it is of another server
                self._shelf.discard(wanted.version)
        log.info("version %d of %s is fetched", wanted.version, self._settings.name)
        try:
            registry.download(self._settings.name, wanted.version, folder, files)
            _check(folder, wanted.digest, files)
        except (Damaged, NotFound, InvalidInput, wire.Damaged) as cause:
            self._shelf.discard(wanted.version)
            count = self._damaged.get(wanted.digest, 0) + 1
            self._damaged = {wanted.digest: count}
            if count < MAX_DAMAGED:
                raise
            self._refuse(wanted.version, wanted.digest, str(cause))
            return None
        return folder

    def _opened(self, folder: Path, version: int, digest: str, proven: bool) -> Loaded:
        return Loaded(version, digest, self._open(folder), proven)

    def _give(self, model: Loaded) -> None:
        self._tried = model
        self._offer(model)

    def _refuse(self, version: int, digest: str, why: str) -> None:
        log.error("version %d of %s is refused: %s", version, self._settings.name, why)
        self._shelf.refuse(digest, why)

    def _has_kept(self, model: Loaded) -> None:
        self._in_use, self._tried = model, None
        if model.version:
            self._shelf.keep(model.version, model.digest)
        log.info("version %d of %s is in use", model.version, self._settings.name)

    def _has_refused(self, model: Loaded, why: str) -> None:
        self._tried = None
        self._refuse(model.version, model.digest, why)
        if self._in_use is None and not self._closed:
            self.offer_last_good()

    def _hear(self) -> None:
        """Do what the slot told, in this thread: only one writes to the shelf."""
        while True:
            try:
                told = self._told.get_nowait()
            except queue.Empty:
                return
            if told is not None:
                told()

    def _run(self) -> None:
        while not self._closed:
            try:
                self.poll()
                self.problem = ""
            except Exception as cause:  # weeks: whatever it is, the next time may be better
                self._note(cause)
            self._rest(self._settings.every_s * (0.5 + self._draw()))

    def _note(self, cause: Exception) -> None:
        ours = isinstance(cause, SecondlookError | wire.ClientError)
        told = str(cause) if ours else f"{type(cause).__name__}: {cause}"
        if told != self.problem:
            log.warning("no news of models: %s", told)
        self.problem = told

    def _rest(self, seconds: float) -> None:
        """Wait for the next question, but hear the slot at once."""
        ends = time.monotonic() + seconds
        while not self._closed and (left := ends - time.monotonic()) > 0:
            try:
                told = self._told.get(timeout=left)
            except queue.Empty:
                return
            if told is not None:
                told()


def _check(folder: Path, digest: str, files: Sequence[str]) -> None:
    """Raises ``Damaged`` when these files of the model of that digest are not there, whole."""
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise Damaged("what was downloaded is another model than the server names")
    verify_files(folder, manifest, files)
