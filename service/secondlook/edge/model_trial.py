"""The model in use, and the trial of the one that would replace it.

A new model is taken between two frames, and is on trial for the first ones: both models run on
each, in turns, so that they are compared on the same frames at the same load. A new model that
raises, or is far slower, is refused, and the frame has the old model's detections all the same.
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
from secondlook.detector.manifest import StudentManifest
from secondlook.edge.settings import EdgeSettings

log = logging.getLogger(__name__)

NOTICEABLE_S = 0.01
"""A trial is not lost by less than this per frame, whatever the ratio."""
EXTENSION = 5
"""A model that seems too slow is tried on so many times as many frames before it is refused."""


class Detector(Protocol):
    """What ``detector.OnnxDetector`` does."""

    manifest: StudentManifest

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """The objects on each image."""

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """(N,) calibrated, [0, 1]."""

    def close(self) -> None:
        """Free its memory."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is open and has passed its self-test."""

    version: int
    """On the server; 0 for a folder given by hand."""
    digest: str
    detector: Detector
    proven: bool = False
    """It has worked here before, so it may be slower: a roll-back is wanted whatever it costs."""

    @property
    def told(self) -> str:
        """Which one it is, for people."""
        which = f"version {self.version}" if self.version else self.digest[:12]
        return f"{self.detector.manifest.name}, {which}"


@dataclass(frozen=True)
class FrameDetections:
    """What one model found in one frame."""

    version: int
    found: tuple[Detection, ...]
    ms: float


class TrialListener:
    """Told how trials go, in the camera's loop: it must not wait. By default it does nothing."""

    def survived(self, model: LoadedModel) -> None:
        """A model on trial has run on its first frame without crashing the process."""

    def accepted(self, model: LoadedModel) -> None:
        """The model is the one in use from now on."""

    def refused(self, model: LoadedModel, why: str) -> None:
        """The model must not be tried again."""


class ModelTrial:
    """A new model beside the one in use: the times of both, bounded by the length of the trial."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.ms: list[float] = []
        """Of the new model, milliseconds a frame."""
        self.reference_ms: list[float] = []
        """Of the model in use, on the same frames where it did not fail."""

    def too_slow(self, max_slowdown: float) -> str:
        """Why the new model is too slow at present; empty where it is not.

        ``max_slowdown``: how many times the time of the model in use is allowed; 0 for no bound.
        """
        if not max_slowdown or self.model.proven or not self.reference_ms:
            return ""
        # The best times: medians of two equal models differed fivefold on a busy machine.
        new, old = min(self.ms), min(self.reference_ms)
        if new <= old * max_slowdown or new - old < NOTICEABLE_S * 1000:
            return ""
        return (
            f"it takes {new:.0f} ms a frame where the model in use takes {old:.0f} ms; at most "
            f"{max_slowdown:g} times as much is allowed"
        )


class ModelRunner:
    """Runs the model in use and one on trial. ``offer`` is for any thread, the rest for one."""

    def __init__(
        self,
        listener: TrialListener,
        *,
        trial_frames: int = 20,
        max_slowdown: float = EdgeSettings.max_slowdown,
        score_floor: float = EdgeSettings.score_floor,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``max_slowdown``: how many times the old model's time is too much; 0 for no bound."""
        self._listener = listener
        self._trial_frames = trial_frames
        self._max_slowdown = max_slowdown
        self._score_floor = score_floor
        self._clock = clock
        self._offered: LoadedModel | None = None
        self._untested = False
        """Whether the model in use has not run on a frame yet, here or ever."""
        self._trial: ModelTrial | None = None
        self.current: LoadedModel | None = None
        """The model in use; None until the first has come."""
        self.swaps = 0
        """Models taken into use after the first."""
        self.failed_trials = 0

    def offer(self, model: LoadedModel) -> None:
        """Take ``model`` before the next frame, in place of any that was offered and not taken."""
        self._offered = model

    def detect(self, pixels: Pixels) -> FrameDetections | None:
        """What is in one frame; None when there is no model yet.

        Raises what the model raises when there is no other to run.
        """
        self._take_offered()
        if self._trial is not None:
            detections = self._run_both(self._trial, pixels)
            if detections is not None:
                return detections
        if self.current is None:
            return None
        run = self._run_untested if self._untested else self._run
        return run(self.current, pixels)

    def close(self) -> None:
        """Close all models, also one that was offered and never run."""
        offered, self._offered = self._offered, None
        self._end_trial()
        for model in (offered, self.current):
            if model is not None:
                model.detector.close()
        self.current = None

    def _run_untested(self, model: LoadedModel, pixels: Pixels) -> FrameDetections | None:
        """The first model has none to be compared with: its first frame decides alone."""
        self._untested = False
        try:
            detections = self._run(model, pixels)
        except Exception as cause:  # see _run_both
            self.current = None
            self._refuse(model, cause)
            return None
        self._listener.accepted(model)
        return detections

    def _take_offered(self) -> None:
        model, self._offered = self._offered, None
        if model is None:
            return
        self._end_trial()
        if self.current is None:  # nothing to compare it with, or to go back to
            self.current, self._untested = model, not model.proven
            if model.proven:
                self._listener.accepted(model)
        else:
            self._trial = ModelTrial(model)

    def _end_trial(self) -> None:
        """A newer model is there, or the end: the one on trial is closed without a result."""
        if self._trial is not None:
            self._trial.model.detector.close()
            self._trial = None

    def _run_both(self, trial: ModelTrial, pixels: Pixels) -> FrameDetections | None:
        """The new model's detections in a frame; None when it has just lost its trial."""
        old_first = len(trial.ms) % 2 == 0
        if old_first:
            self._time_current(trial, pixels)
        try:
            detections = self._run(trial.model, pixels)
        except Exception as cause:  # whatever an unknown model raises, the old one goes on
            self._refuse(trial.model, cause)
            return None
        if not old_first:
            self._time_current(trial, pixels)
        trial.ms.append(detections.ms)
        if len(trial.ms) == 1:
            self._listener.survived(trial.model)
        if len(trial.ms) < self._trial_frames:
            return detections
        why = trial.too_slow(self._max_slowdown)
        if not why:
            self._accept(trial.model)
        elif len(trial.ms) >= EXTENSION * self._trial_frames:
            self._refuse(trial.model, why)
            return None
        return detections

    def _time_current(self, trial: ModelTrial, pixels: Pixels) -> None:
        if self.current is None:
            return
        try:
            trial.reference_ms.append(self._run(self.current, pixels).ms)
        except Exception as cause:  # no reason against the new one, and it is about to go
            log.warning("the model in use failed on a frame: %s", cause)

    def _accept(self, model: LoadedModel) -> None:
        old, self.current, self._trial = self.current, model, None
        if old is not None:
            self.swaps += 1
            old.detector.close()
        self._listener.accepted(model)

    def _refuse(self, model: LoadedModel, why: Exception | str) -> None:
        self._trial = None
        self.failed_trials += 1
        model.detector.close()
        if isinstance(why, Exception):
            why = f"it failed on a frame: {type(why).__name__}: {why}"
        self._listener.refused(model, why)

    def _run(self, model: LoadedModel, pixels: Pixels) -> FrameDetections:
        started = self._clock()
        detector = model.detector
        (found,) = detector.detect([pixels], self._score_floor)
        probabilities = detector.probability(found)
        ms = (self._clock() - started) * 1000
        detections = _as_values(detector.manifest, found, probabilities)
        return FrameDetections(model.version, detections, ms)


def _as_values(
    manifest: StudentManifest, found: Detections, probabilities: NDArray[np.float32]
) -> tuple[Detection, ...]:
    """One value per detection, best first."""
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
