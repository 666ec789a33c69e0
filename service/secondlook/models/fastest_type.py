"""``--dtype fastest``: the type of matrix products that is fastest here and changes no outcome.

A model is loaded in float32 and in each other type that this device multiplies by itself; each
sees one drawn picture a few times. The fastest is kept whose boxes, or answers, are those of
float32: ``SAME`` of them with an IoU of ``SAME_IOU`` and a score within ``SAME_SCORE``. What was
chosen, and why the others were not, is a line in the log. Without it (``auto``) models stay in
float32, so that scores do not depend on the machine.
"""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import FASTEST, ModelSettings
from secondlook.core.boxes import iou
from secondlook.core.processors import multiplies_bfloat16
from secondlook.core.types import Image, Pixels, VQAQuery
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.verifier import Verifier
from secondlook_client.errors import SecondlookError

log = logging.getLogger(__name__)

FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
SAME, SAME_IOU, SAME_SCORE = 0.99, 0.95, 0.01
TIMES = 3
"""Runs after the first one, of which the median counts."""
GAIN = 1.1
"""Times as fast as float32 that another type must be."""
PHRASES = ("person", "car")
QUESTIONS = ("Is this a person?", "Is this a car?")
BOXES = 300
"""The best of them are compared."""
CROPS = 8
Model = TypeVar("Model", Proposer, Verifier)


@runtime_checkable
class OnDevice(Protocol):
    """A model that multiplies in the type of ``--dtype``; no other one is tried."""

    device: str
    """Where: ``cpu``, ``cuda`` or ``mps``."""


def device_of(model: object) -> str:
    """Where a model multiplies; empty where it does not say."""
    return model.device if isinstance(model, OnDevice) else ""


def fastest_proposer(load: Callable[[ModelSettings], Proposer], options: ModelSettings) -> Proposer:
    """What ``load`` gives with the type that is fastest. Raises what it raises."""
    image = Image(_picture(480, 640), "0" * 64)

    def run(model: Proposer) -> Any:
        return model.propose([image], PHRASES, 0.0)[0]

    def same(found: Any, wanted: Any) -> float:
        best = np.argsort(-wanted.scores.max(axis=1))[:BOXES]
        near = iou(wanted.boxes[best], found.boxes) >= SAME_IOU
        apart = np.abs(wanted.scores[best][:, None] - found.scores[None]).max(axis=2)
        return _share((near & (apart <= SAME_SCORE)).any(axis=1))

    return _fastest(load, options, run, same)


def fastest_verifier(load: Callable[[ModelSettings], Verifier], options: ModelSettings) -> Verifier:
    """What ``load`` gives with the type that is fastest. Raises what it raises."""
    whole = _picture(480, 640)
    queries = [
        VQAQuery(np.ascontiguousarray(whole[:, 50 * at : 50 * at + 240]), QUESTIONS)
        for at in range(CROPS)
    ]

    def run(model: Verifier) -> Any:
        return [answer.p_yes for answers in model.answer(queries) for answer in answers]

    def same(found: Any, wanted: Any) -> float:
        pairs = zip(found, wanted, strict=True)
        known = [(one, other) for one, other in pairs if other is not None]
        return _share(
            np.array([one is not None and abs(one - other) <= SAME_SCORE for one, other in known])
        )

    return _fastest(load, options, run, same)


def native_types(device: str) -> tuple[str, ...]:
    """The types beside float32 that a device (``cpu``, ``cuda``, ``mps``) multiplies by itself."""
    if device == "cuda":
        return BFLOAT16, FLOAT16
    if device == "mps":
        return (FLOAT16,)
    return (BFLOAT16,) if device == "cpu" and multiplies_bfloat16() else ()


def _fastest(
    load: Callable[[ModelSettings], Model],
    options: ModelSettings,
    run: Callable[[Model], Any],
    same: Callable[[Any, Any], float],
) -> Model:
    best = load(replace(options, dtype=FLOAT32))
    device = device_of(best)
    if not device:  # a server, or a program of somebody else, chooses itself
        return best
    types = native_types(device)
    if not types:
        log.warning("--dtype %s: %s, as this device has no other type", FASTEST, FLOAT32)
        return best
    try:
        wanted = run(best)
    except SecondlookError as failure:  # words that it does not know
        log.warning("--dtype %s: %s, as it cannot be tried: %s", FASTEST, FLOAT32, failure)
        return best
    float32_s = best_s = _seconds(best, run)
    chosen, reports = FLOAT32, []
    for dtype in types:
        model = load(replace(options, dtype=dtype))
        share = same(run(model), wanted)
        seconds = _seconds(model, run)
        reports.append(f"{dtype} is {float32_s / seconds:.2f} times as fast, {share:.1%} the same")
        if share >= SAME and seconds < min(best_s, float32_s / GAIN):
            best, best_s, chosen = model, seconds, dtype
    log.warning("--dtype %s: %s for %s; %s", FASTEST, chosen, best.name, "; ".join(reports))
    return best


def _seconds(model: Model, run: Callable[[Model], Any]) -> float:
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        run(model)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else 1.0


def _picture(height: int, width: int) -> Pixels:
    """Shapes of many sizes on a ground that changes; what they show does not matter."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=-1)
    for _ in range(40):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        tall, wide = rng.integers(10, 200, 2)
        picture[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
    return picture.astype(np.uint8)
