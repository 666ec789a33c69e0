"""The model in use, and the one that wants to follow it.

A new model is taken between two frames, and is on trial for the first ones: both models look at
each, in turns, so that the new one is compared on the same frames at the same load. One that
raises, or is far slower, is out, and the frame has the old model's detections all the same.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.frames import Detection
from secondlook.detector.manifest import Manifest

log = logging.getLogger(__name__)

NOTICEABLE_S = 0.01
"""A trial is not lost by less than this a frame, whatever the ratio."""
DOUBTS = 5
"""A model that seems too slow is tried so many times as long before it is out."""


class Detector(Protocol):
    """What ``detector.OnnxDetector`` does."""

    manifest: Manifest

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """The objects on each image."""

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """(N,) calibrated, [0, 1]."""

    def close(self) -> None:
        """Free its memory."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is open and has passed its self-test."""

    version: int
    """On the server; 0 for a folder given by hand."""
    digest: str
    detector: Detector
    proven: bool = False
    """It has worked here before, so it may be slower: somebody wants it back."""


@dataclass(frozen=True)
class Seen:
    """What one model found in one frame."""

    version: int
    found: tuple[Detection, ...]
    ms: float


class TrialHeard(Protocol):
    """Is told how a trial goes; all are called from the camera's loop and must not wait."""

    def survived(self, model: Loaded) -> None:
        """A model on trial has looked at its first frame, and the process still lives."""

    def kept(self, model: Loaded) -> None:
        """The model is the one in use from now on."""

    def refused(self, model: Loaded, why: str) -> None:
        """The model must not be tried again."""


class ModelSlot:
    """Looks at frames with the model in use. ``offer`` is for any thread, the rest for one."""

    def __init__(
        self,
        heard: TrialHeard,
        *,
        trial_frames: int = 20,
        slower: float = 3.0,
        floor: float = 0.05,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``slower``: how many times the old model's time is too much; 0 for no bound."""
        self._heard = heard
        self._trial_frames = trial_frames
        self._slower = slower
        self._floor = floor
        self._clock = clock
        self._offered: Loaded | None = None
        self._first = False
        """Whether the model in use has not looked at a frame yet, here or ever."""
        self._trial: _Trial | None = None
        self.current: Loaded | None = None
        """The model in use; None until the first has come."""
        self.swaps = 0
        """Models taken into use after the first."""
        self.went_back = 0
        """Models that lost their trial."""

    def offer(self, model: Loaded) -> None:
        """Take ``model`` before the next frame; one that was offered and not taken is dropped."""
        self._offered = model

    @property
    def tried(self) -> Loaded | None:
        """The model on trial, if any."""
        return self._trial.new if self._trial is not None else None

    def look(self, pixels: Pixels) -> Seen | None:
        """What is in one frame; None when there is no model yet.

        Raises what the model raises when there is no other to ask.
        """
        self._take_offered()
        if self._trial is not None:
            seen = self._look_twice(self._trial, pixels)
            if seen is not None:
                return seen
        if self.current is None:
            return None
        look = self._look_first if self._first else self._look
        return look(self.current, pixels)

    def close(self) -> None:
        """Close all models, also one that was offered and never looked."""
        offered, self._offered = self._offered, None
        self._end_trial()
        for model in (offered, self.current):
            if model is not None:
                model.detector.close()
        self.current = None

    def _look_first(self, model: Loaded, pixels: Pixels) -> Seen | None:
        """The first frame of the first model decides alone."""
        self._first = False
        try:
            seen = self._look(model, pixels)
        except Exception as cause:  # see _look_twice
            self.current = None
            self._lose(model, cause)
            return None
        self._heard.kept(model)
        return seen

    def _take_offered(self) -> None:
        model, self._offered = self._offered, None
        if model is None:
            return
        self._end_trial()
        if self.current is None:  # nothing to compare it with, or to go back to
            self.current, self._first = model, not model.proven
            if model.proven:
                self._heard.kept(model)
        else:
            self._trial = _Trial(model)

    def _end_trial(self) -> None:
        """A newer model is there, or the end: the one on trial goes without a verdict."""
        if self._trial is not None:
            self._trial.new.detector.close()
            self._trial = None

    def _look_twice(self, trial: "_Trial", pixels: Pixels) -> Seen | None:
        """The new model's view of a frame; None when it has just lost its trial."""
        old_first = len(trial.new_ms) % 2 == 0
        if old_first:
            self._time_old(trial, pixels)
        try:
            seen = self._look(trial.new, pixels)
        except Exception as cause:  # whatever a stranger's model raises, the old one goes on
            self._lose(trial.new, cause)
            return None
        if not old_first:
            self._time_old(trial, pixels)
        trial.new_ms.append(seen.ms)
        if len(trial.new_ms) == 1:
            self._heard.survived(trial.new)
        if len(trial.new_ms) < self._trial_frames:
            return seen
        why = self._too_slow(trial)
        if not why:
            self._won(trial)
        elif len(trial.new_ms) >= DOUBTS * self._trial_frames:
            self._lose(trial.new, why)
            return None
        return seen

    def _time_old(self, trial: "_Trial", pixels: Pixels) -> None:
        if self.current is None:
            return
        try:
            trial.old_ms.append(self._look(self.current, pixels).ms)
        except Exception as cause:  # no reason against the new one, and it is about to go
            log.warning("the model in use failed on a frame: %s", cause)

    def _too_slow(self, trial: "_Trial") -> str:
        if not self._slower or trial.new.proven or not trial.old_ms:
            return ""
        # The best times: medians of two equal models differed fivefold on a busy machine.
        new, old = min(trial.new_ms), min(trial.old_ms)
        if new <= old * self._slower or new - old < NOTICEABLE_S * 1000:
            return ""
        return (
            f"it takes {new:.0f} ms a frame where the model in use takes {old:.0f} ms; at most "
            f"{self._slower:g} times as much is allowed"
        )

    def _won(self, trial: "_Trial") -> None:
        old, self.current, self._trial = self.current, trial.new, None
        if old is not None:
            self.swaps += 1
            old.detector.close()
        self._heard.kept(trial.new)

    def _lose(self, model: Loaded, why: Exception | str) -> None:
        self._trial = None
        self.went_back += 1
        model.detector.close()
        if isinstance(why, Exception):
            why = f"it failed on a frame: {type(why).__name__}: {why}"
        self._heard.refused(model, why)

    def _look(self, model: Loaded, pixels: Pixels) -> Seen:
        started = self._clock()
        detector = model.detector
        (found,) = detector.detect([pixels], self._floor)
        probabilities = detector.probability(found)
        ms = (self._clock() - started) * 1000
        return Seen(model.version, _plain(detector.manifest, found, probabilities), ms)


class _Trial:
    """The times of both models, milliseconds; bounded by the length of the trial."""

    def __init__(self, new: Loaded) -> None:
        self.new = new
        self.new_ms: list[float] = []
        self.old_ms: list[float] = []


def _plain(
    manifest: Manifest, found: Detections, probabilities: NDArray[np.float32]
) -> tuple[Detection, ...]:
    """The detections as values of their own, best first."""
    rows = zip(
        found.classes.tolist(),
        probabilities.tolist(),
        found.scores.tolist(),
        found.boxes.tolist(),
        strict=True,
    )
    return tuple(
        Detection(
            manifest.classes[index],
            probability,
            score,
            tuple(box),
            score >= manifest.thresholds[index],
        )
        for index, probability, score, box in rows
    )
