"""Named pairs of published checkpoints for photos: ``--models photo``, ``photo-small``, …

The revision is the hub's main one; ``--proposer ORG/NAME@REVISION`` pins another. Which one was
used is told by the digest of the weights, which every label carries. ``photo_loaders`` loads them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubModel:
    """A published checkpoint."""

    repository: str
    """``ORG/NAME`` on the Hugging Face hub."""
    licence: str
    megabytes: int
    """Of its weights, about: parameters times the bytes in which they are published."""


@dataclass(frozen=True)
class PhotoPair:
    """A proposer and a verifier that belong together."""

    proposer: HubModel
    verifier: HubModel
    purpose: str

    @property
    def megabytes(self) -> int:
        """Of both."""
        return self.proposer.megabytes + self.verifier.megabytes


_TINY = HubModel("IDEA-Research/grounding-dino-tiny", "Apache-2.0", 690)
_BASE = HubModel("IDEA-Research/grounding-dino-base", "Apache-2.0", 930)

PHOTO_PAIRS = {
    "photo-small": PhotoPair(
        _TINY, HubModel("HuggingFaceTB/SmolVLM-256M-Instruct", "Apache-2.0", 510), "a first look"
    ),
    "photo": PhotoPair(
        _TINY, HubModel("HuggingFaceTB/SmolVLM-500M-Instruct", "Apache-2.0", 1020), "most work"
    ),
    "photo-large": PhotoPair(
        _BASE, HubModel("HuggingFaceTB/SmolVLM-Instruct", "Apache-2.0", 4490), "a GPU"
    ),
}


def describe_pairs() -> str:
    """The table in one sentence, for messages and help."""
    return "; ".join(
        f"{name} ({pair.purpose}: {pair.proposer.repository} and {pair.verifier.repository}, "
        f"{pair.proposer.licence}, {pair.megabytes / 1000:.1f} GB)"
        for name, pair in PHOTO_PAIRS.items()
    )
