"""The embedded default: the small models that come with the package, behind the usual adapters.

They are real ``GroundingDinoForObjectDetection`` and ``SmolVLMForConditionalGeneration``
checkpoints, trained on the demo world by the recipes beside this file. They know that drawn
world only; real pictures want real checkpoints.
"""

from pathlib import Path

from secondlook.config import ModelOptions
from secondlook.models import grounding_dino, vlm
from secondlook.propose import Proposer
from secondlook.verify import Verifier

WEIGHTS = Path(__file__).parent / "weights"


def load_proposer(argument: str, options: ModelOptions) -> Proposer:
    """The embedded Grounding DINO; ``argument`` is not used."""
    # Canvases in steps of 32 pixels, as in its training: more shapes of pictures share a batch.
    return grounding_dino.load(f"{WEIGHTS / 'proposer'}?pad=32", options)


def load_verifier(argument: str, options: ModelOptions) -> Verifier:
    """The embedded yes/no vision-language model; ``argument`` is not used."""
    return vlm.load(str(WEIGHTS / "verifier"), options)
