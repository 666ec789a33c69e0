"""Models of real size with random weights: GDINO-T at 800 px, and a VLM of SmolVLM-256M's shape.

Speed does not depend on the values of the weights. Utilisation is the operations that PyTorch
counts, divided by the time and by this machine's own matrix-multiply rate (float32, 2048 square).
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from bench.paired_timing import Figure
from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, VQAQuery
from secondlook.models import grounding_dino, vlm
from secondlook.models.embedded import EMBEDDED

ROUNDS = 3
"""After a warm-up; an image takes 8 to 15 s on two cores."""


def run() -> list[Figure | str]:
    """One table, without bars."""
    rate = _matmul_rate()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_proposer(Path(folder) / "gdino", rate), _verifier(Path(folder) / "vlm", rate)]
    head = "| model | per second | TFLOP each | share of the matmul rate |\n|---|---|---|---|"
    return ["\n".join([head, *rows]), f"Matrix-multiply rate: {rate / 1e12:.2f} TFLOP/s (float32)."]


def _matmul_rate() -> float:
    a = torch.randn(2048, 2048)
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def save_proposer(folder: Path, shortest: int = 800) -> None:
    """A checkpoint of GDINO-T, for images whose shorter side is brought to so many pixels."""
    processor = GroundingDinoProcessor.from_pretrained(EMBEDDED / "proposer")
    processor.image_processor.size = {"shortest_edge": shortest, "longest_edge": 1333}
    processor.save_pretrained(folder)
    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)


def _proposer(folder: Path, rate: float) -> str:
    save_proposer(folder)
    proposer = grounding_dino.load(str(folder), ModelSettings())
    pixels = np.random.default_rng(0).integers(0, 255, (800, 1066, 3), dtype=np.uint8)
    image = Image(pixels, "0" * 64)

    def once() -> None:
        proposer.propose([image], ["person", "dog"], 0.9)

    return _row("GDINO-T, images of 800×1066", once, 1, rate)


def save_verifier(folder: Path) -> int:
    """A checkpoint of SmolVLM-256M's shape, which takes an image whole; returns its side."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "verifier")
    config = _smolvlm_256m(tokenizer)
    size = config.vision_config.image_size
    tokens = (size // config.vision_config.patch_size) ** 2 // config.scale_factor**2
    edge = {"longest_edge": size}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer,
        SmolVLMVideoProcessor(size=edge, max_image_size=edge, num_frames=1, fps=1),
        image_seq_len=tokens,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    return int(size)


def _verifier(folder: Path, rate: float, boxes: int = 4) -> str:
    size = save_verifier(folder)
    verifier = vlm.load(str(folder), ModelSettings(model_batch=boxes))
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    queries = [VQAQuery(pixels, ("Is this a person?",))] * boxes
    return _row("SmolVLM-256M's shape, boxes", lambda: verifier.answer(queries), boxes, rate)


def _smolvlm_256m(tokenizer: Any) -> SmolVLMConfig:
    pad, image = tokenizer.convert_tokens_to_ids(["<pad>", "<image>"])
    text = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49280,
        "pad_token_id": pad,
    }
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    return SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=4,
        image_token_id=image,
        pad_token_id=pad,
    )


def _row(name: str, once: Callable[[], object], units: int, rate: float) -> str:
    with FlopCounterMode(display=False) as counter:
        once()
    flop = counter.get_total_flops() / units
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    seconds = sorted(times)[ROUNDS // 2] / units
    share = flop / seconds / rate
    return f"| {name} | {1 / seconds:.3g} | {flop / 1e12:.3f} | {share:.0%} |"
