"""Both stages at real size (GDINO-T, and a VLM of SmolVLM-256M's shape, random weights) against
plain loops of transformers on the same device, and against its own products of matrices.

On a CUDA device ours computes in bfloat16 and in batches; the loops take an image or a box at a
time, the detector in float32 as transformers loads it, ``generate()`` in bfloat16. On a CPU all is
float32, and an image at a time; where the processor multiplies bfloat16, the detector is measured
in that too, whatever ``--dtype fastest`` would choose.

The loop's processor is that of the published checkpoint: it cuts each crop into tiles, here 16 and
a small copy. Ours cuts it into those that its pixels fill, here one. A loop that cuts nothing is
beside them. Speed does not depend on the values of weights, images and crops. Each side is timed at
the second of two passes.
SECONDLOOK_FAST_DEVICE=rehearsal runs the part for CUDA on a CPU with the embedded models.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch.utils.flop_counter import FlopCounterMode

from bench.baseline import BaselineProposer, BaselineVerifier
from bench.paired_timing import Figure, of_pairs
from bench.real_models import save_proposer, save_verifier
from secondlook.config.settings import ModelSettings
from secondlook.core.processors import multiplies_bfloat16, processor_words
from secondlook.core.types import Image, Pixels, VQAQuery
from secondlook.models import grounding_dino, vlm
from secondlook.models.embedded import EMBEDDED

DEVICE = os.environ.get("SECONDLOOK_FAST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
ON = "cuda" if DEVICE == "cuda" else "cpu"
"""Where tensors are."""
PHRASES = ["person", "dog"]
QUESTION = "Is this a person?"
BOXES = 10
"""Of an image."""
ROUNDS = 5
SECOND_TYPE = "bfloat16" if DEVICE == "cpu" and multiplies_bfloat16() else ""
"""In which the detector is measured too."""
SECOND_BARS = (6 if "amx_bf16" in processor_words() else 3), 0.45
"""Of detector and operations in that type."""


@dataclass(frozen=True)
class Setup:
    """What is measured on a kind of device, and the bars."""

    dtype: str
    images: int
    """In one round; ours takes them as one batch."""
    crops: int
    """In one round of ours."""
    shape: tuple[int, int]
    """Height and width of each image, pixels."""
    product: int
    """Side of the matrices of the device's own rate."""
    warm_up: int
    """Passes before the first is timed: a CUDA graph is recorded at the second."""
    bars: tuple[float, float, float, float] = (0, 0, 0, 0)
    """Of detector, operations, boxes and both."""


SETUPS = {
    "cuda": Setup("bfloat16", 16, 160, (800, 1066), 8192, 3, (8, 0.35, 20, 12)),
    "cpu": Setup("float32", 1, BOXES, (640, 640), 2048, 1, (2.4, 0.8, 8, 5)),
    "rehearsal": Setup("bfloat16", 2, 2 * BOXES, (160, 213), 512, 3),
}


@dataclass(frozen=True, eq=False)
class Sides:
    """Ours and the plain loop, and what both are shown."""

    images: list[Image]
    crops: list[Pixels]
    proposer: grounding_dino.GroundingDinoProposer
    verifier: vlm.TransformersVerifier
    plain_proposer: BaselineProposer
    plain_verifier: BaselineVerifier
    whole_verifier: BaselineVerifier
    """A plain one, too, whose processor cuts nothing."""
    second: grounding_dino.GroundingDinoProposer | None
    """Ours in ``SECOND_TYPE``."""

    def propose(self) -> int:
        """Images that ours proposed boxes for."""
        return len(self.proposer.propose(self.images, PHRASES, 0.9))

    def second_propose(self) -> int:
        """The same in the second type."""
        return len(self.second.propose(self.images, PHRASES, 0.9)) if self.second else 0

    def verify(self) -> int:
        """Crops that ours answered about."""
        return len(self.verifier.answer([VQAQuery(crop, (QUESTION,)) for crop in self.crops]))

    def plain_propose(self) -> int:
        """One image: the rate of a loop does not depend on their number."""
        self.plain_proposer.boxes(PILImage.fromarray(self.images[0].pixels), PHRASES, 0.9)
        return 1

    def plain_verify(self) -> int:
        """One crop, for the same reason."""
        self.plain_verifier.yes(PILImage.fromarray(self.crops[0]), QUESTION)
        return 1

    def whole_verify(self) -> int:
        """One crop, uncut."""
        self.whole_verifier.yes(PILImage.fromarray(self.crops[0]), QUESTION)
        return 1


@dataclass(frozen=True)
class Round:
    """Seconds of one image, of one box, and operations a second, measured within a minute."""

    detector: float
    plain_detector: float
    box: float
    plain_box: float
    whole_box: float
    """Of the plain loop that cuts nothing."""
    products: float
    flop: float
    """Operations of the detector for one image."""
    second: float
    second_products: float
    """Of the detector and of products in the second type; 0 without one."""

    def pairs(self) -> list[tuple[float, float]]:
        """Ours and the other side: images a second, TFLOP/s, boxes a second, images a second."""
        return [
            (1 / self.detector, 1 / self.plain_detector),
            (self.flop / self.detector / 1e12, self.products / 1e12),
            (1 / self.box, 1 / self.plain_box),
            (
                1 / (self.detector + BOXES * self.box),
                1 / (self.plain_detector + BOXES * self.plain_box),
            ),
        ]

    def second_pairs(self) -> list[tuple[float, float]]:
        """Of the second type: images a second, and TFLOP/s."""
        return [
            (1 / self.second, 1 / self.plain_detector),
            (self.flop / self.second / 1e12, self.second_products / 1e12),
        ]


def run() -> list[Figure | str]:
    """Ratios with their bars; of a rehearsal without."""
    setup = SETUPS[DEVICE]
    with tempfile.TemporaryDirectory() as folder:
        sides = _load(setup, Path(folder))
        # Operations are counted first: a CUDA graph would hide them.
        flop, box_flop = _flop(sides.propose) / setup.images, _flop(sides.verify) / setup.crops
        ours = sides.propose, sides.verify, sides.second_propose
        for work in (*ours, sides.plain_propose, sides.plain_verify, sides.whole_verify):
            for _ in range(setup.warm_up):
                work()
        rounds = [_round(setup, sides, flop) for _ in range(ROUNDS)]
    size = "{}×{}".format(*setup.shape)
    names = (
        f"detector at {size} ÷ transformers' loop in float32, an image at a time",
        f"its operations ÷ the device's on matrix products, {setup.dtype}",
        "boxes verified ÷ one `generate()` a box, as its processor cuts it",
        f"both stages ÷ the plain loop, {BOXES} boxes an image",
    )
    units = ("images/s", "TFLOP/s", "boxes/s", "images/s")
    figures = [
        of_pairs(name, [one.pairs()[index] for one in rounds], at_least=bar, unit=unit)
        for index, (name, bar, unit) in enumerate(zip(names, setup.bars, units, strict=True))
    ]
    if SECOND_TYPE:
        figures += [
            of_pairs(
                f"{name}, {SECOND_TYPE}",
                [one.second_pairs()[index] for one in rounds],
                at_least=SECOND_BARS[index],
                unit=units[index],
            )
            for index, name in enumerate(
                ("detector ÷ transformers' loop in float32", "its operations ÷ the products")
            )
        ]
    if DEVICE == "rehearsal":
        done = "; ".join(f"{one.name}: {one.ratio:.3g}" for one in figures)
        return [f"A rehearsal on a CPU with small models, which says nothing of a GPU. {done}."]
    open_column = "" if DEVICE == "cuda" else " No CUDA device was at hand: its column stays open."
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "a CPU"
    uncut = statistics.median(one.whole_box / one.box for one in rounds)
    share = statistics.median(box_flop / one.box / one.products for one in rounds)
    sentence = (
        f"On {where}. The detector's {flop / 1e12:.3f} TFLOP an image, the verifier's "
        f"{box_flop / 1e12:.3f} a box, which are {share:.2f} of the same rate. Of a loop "
        f"that cuts nothing it verifies {uncut:.2f} times as many boxes.{open_column}"
    )
    return [sentence, *figures]


def _load(setup: Setup, folder: Path) -> Sides:
    proposer, verifier, side = EMBEDDED / "proposer", EMBEDDED / "verifier", 64
    if DEVICE != "rehearsal":
        proposer, verifier = folder / "proposer", folder / "verifier"
        save_proposer(proposer, shortest=min(setup.shape))
        side = save_verifier(verifier)
    random = np.random.default_rng(0)
    images = [
        Image(random.integers(0, 255, (*setup.shape, 3), dtype=np.uint8), f"{row:064x}")
        for row in range(setup.images)
    ]
    crops = [
        images[row % setup.images].pixels[:side, row : row + side] for row in range(setup.crops)
    ]
    options = ModelSettings(device=ON, dtype=setup.dtype, model_batch=64)
    whole_verifier = BaselineVerifier(verifier, ON, getattr(torch, setup.dtype))
    uncut = whole_verifier.processor.image_processor
    uncut.do_image_splitting, uncut.size = False, uncut.max_image_size
    return Sides(
        images,
        crops,
        grounding_dino.load(str(proposer), options),
        vlm.load(str(verifier), options),
        BaselineProposer(proposer, ON),
        BaselineVerifier(verifier, ON, getattr(torch, setup.dtype)),
        whole_verifier,
        grounding_dino.load(str(proposer), replace(options, dtype=SECOND_TYPE))
        if SECOND_TYPE
        else None,
    )


def _round(setup: Setup, sides: Sides, flop: float) -> Round:
    """All sides in turn."""
    return Round(
        _steady(sides.propose) / setup.images,
        _steady(sides.plain_propose),
        _steady(sides.verify) / setup.crops,
        _steady(sides.plain_verify),
        _steady(sides.whole_verify),
        _products(setup.product, setup.dtype),
        flop,
        _steady(sides.second_propose),
        _products(setup.product, SECOND_TYPE) if SECOND_TYPE else 0.0,
    )


def _products(side: int, dtype: str) -> float:
    """Operations a second of the device's own square products."""
    left = torch.randn(side, side, device=ON, dtype=getattr(torch, dtype))
    return 2 * side**3 / min(_seconds(lambda: left @ left) for _ in range(10))


def _flop(work: Callable[[], Any]) -> int:
    """Operations of one call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _steady(work: Callable[[], Any]) -> float:
    """Seconds of the second of two calls: the first finds caches and memory as another left them.

    Who labels a folder has one model at work, image after image.
    """
    work()
    return _seconds(work)


def _seconds(work: Callable[[], Any]) -> float:
    """Of one call, the device's work included."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
