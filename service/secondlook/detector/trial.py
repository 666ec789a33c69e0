"""A student from strangers is tried in a child process first, with limits of time and memory.

What an ONNX file costs shows only when it runs: 900 bytes can ask for gigabytes, or multiply
matrices for days, already while onnxruntime opens the file. The trial opens the student, runs its
self-test and some images of its own, and measures. ``onnx_safety`` sees to it that no size in the
graph depends on what an image shows, so what the trial took is what every later image takes, and a
student that passed may be opened in a process that has other things to do.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondlook.core.cancellation import check_cancelled
from secondlook.core.sandbox import (
    CannotStart,
    Crashed,
    FunctionFailed,
    OutOfMemory,
    OutOfTime,
    Sandbox,
    SandboxCall,
    SandboxLimits,
    Withdrawn,
)
from secondlook.core.types import Pixels
from secondlook.detector.runtime import BATCH, OnnxDetector
from secondlook_client.errors import Cancelled, Damaged, Unavailable

NICENESS = 10
"""Of a trial: the camera and the requests to label go first."""
POLL_S = 0.1
"""How soon a trial is given up that nobody waits for any more."""


@dataclass(frozen=True)
class TrialLimits:
    """What a student may take on one processor core."""

    memory_mb: int = 1024
    """Megabytes besides those of Python."""
    cpu_s: float = 30.0
    """Seconds to open it and to run it on some ten images and a batch."""
    image_s: float = 1.0
    """Seconds of one image."""
    batch: int = BATCH
    """Images that are run together at most."""


@dataclass(frozen=True)
class TrialResult:
    """What a student took in its trial."""

    image_s: float
    """CPU seconds of the slowest image."""
    peak_mb: float
    """Memory of the child at most, with Python and onnxruntime; 0 where it is not known."""


def open_tried(
    folder: Path,
    precision: str = "auto",
    threads: int = 0,
    limits: TrialLimits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> OnnxDetector:
    """Try a student folder, then open it here.

    Raises what ``try_student`` and ``OnnxDetector.open`` raise.
    """
    try_student(folder, precision, limits, stopped)
    return OnnxDetector.open(folder, precision, threads)


def try_student(
    folder: Path,
    precision: str = "auto",
    limits: TrialLimits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Open and run a student in a child process, and measure what it takes.

    Raises ``Damaged`` for a student that takes more than ``limits``, crashes its process or is
    refused by ``OnnxDetector.open``; ``Cancelled`` once ``stopped`` or the thread's work is
    cancelled; ``Unavailable`` when this machine cannot start a process.
    """
    limits = limits or TrialLimits()
    within = SandboxLimits(limits.cpu_s, limits.memory_mb * 2**20)
    call = SandboxCall(measure, b"", str(folder), precision, limits.batch, within=within)
    result = run_trial(call, limits, stopped)
    if result.image_s > limits.image_s:
        raise Damaged(
            f"the model takes {result.image_s:.1f} s for one image, of {limits.image_s:g} s "
            "allowed; train a smaller size"
        )
    return result


def run_trial(
    call: SandboxCall, limits: TrialLimits, stopped: Callable[[], bool] = lambda: False
) -> TrialResult:
    """Run ``call``, which returns what a ``TrialResult`` holds, in a child process of its own.

    Raises what ``try_student`` raises, except for ``limits.image_s``.
    """
    with closing(Sandbox()) as sandbox:
        return TrialResult(*_outcome(sandbox.submit(call), limits, stopped))


def _outcome(
    call: SandboxCall, limits: TrialLimits, stopped: Callable[[], bool]
) -> tuple[float, float]:
    """What ``measure`` returned; a fault of the sandbox in words."""
    try:
        while True:
            check_cancelled()
            if stopped():
                raise Cancelled("the trial of the model was cancelled; ask again")
            try:
                image_s, peak_mb = call.result(POLL_S)
            except TimeoutError:
                continue
            return image_s, peak_mb
    except OutOfTime as cause:
        raise Damaged(
            f"the model was not ready within {limits.cpu_s:g} s of computing, which is all that "
            "its trial may take"
        ) from cause
    except OutOfMemory as cause:
        raise Damaged(
            f"the model wants more than {limits.memory_mb:,} MB of memory, which is all that its "
            "trial may take"
        ) from cause
    except FunctionFailed as cause:
        raise Damaged(f"the model fails in an unknown way: {cause}") from cause
    except Crashed as cause:
        raise Damaged(f"the model crashes the process that tries it ({cause})") from cause
    except (Withdrawn, CancelledError) as cause:
        raise Cancelled("the trial of the model was cancelled; ask again") from cause
    except CannotStart as cause:
        raise Unavailable(f"the model cannot be tried now: {cause}") from cause


def measure(payload: bytes, folder: str, precision: str, batch: int) -> tuple[float, float]:
    """In the child: (CPU seconds of the slowest image, peak memory in megabytes).

    Raises what ``OnnxDetector`` raises, and ``MemoryError``.
    """
    del payload
    os.nice(NICENESS)
    try:
        with closing(OnnxDetector.open(Path(folder), precision, threads=1)) as detector:
            images = _images(detector.manifest.input_size)
            slowest = max(_seconds(detector, [image]) for image in images)
            detector.detect((images * batch)[:batch])
    except Damaged as failure:
        if "alloc" in str(failure.__cause__):  # of C++, which onnxruntime passes on as text
            raise MemoryError from failure
        raise
    return slowest, peak_memory_mb()


def peak_memory_mb() -> float:
    """Of this process alone: ``getrusage`` would begin with the memory of its parent."""
    with suppress(OSError), Path("/proc/self/status").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return 0.0


def _images(size: tuple[int, int]) -> list[Pixels]:
    """Black, white and noise."""
    shape = (size[1], size[0], 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise]


def _seconds(detector: OnnxDetector, images: list[Pixels]) -> float:
    began = time.process_time()
    detector.detect(images)
    return time.process_time() - began
