"""The embedded default: the small models that come with the package, behind the usual adapters.

They are real ``GroundingDinoForObjectDetection`` and ``FastVlmForConditionalGeneration``
checkpoints, trained on the demo world by the recipes in ``service/recipes``. They know that
world only; real images need real checkpoints.
"""

from dataclasses import replace
from pathlib import Path

import torch

from secondlook.config.settings import ModelSettings
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.verifier import Verifier
from secondlook.models import grounding_dino, vlm

EMBEDDED = Path(__file__).parent / "weights"


def load_proposer(argument: str, options: ModelSettings) -> Proposer:
    """The embedded Grounding DINO; ``argument`` is not used."""
    # Canvases in steps of 32 pixels, as in its training: more shapes of images share a batch.
    return grounding_dino.load(f"{EMBEDDED / 'proposer'}?pad=32", options)


def load_verifier(argument: str, options: ModelSettings) -> Verifier:
    """The embedded yes/no vision-language model; ``argument`` is not used.

    Runs in bfloat16 where the processor multiplies it natively: 1.7 times as fast, and P(yes) on
    256 views moved by at most 0.024, none across 0.5.
    """
    if options.dtype == "auto" and _multiplies_bfloat16():
        options = replace(options, dtype="bfloat16")
    return vlm.load(str(EMBEDDED / "verifier"), options)


def _multiplies_bfloat16() -> bool:
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked and asked())
