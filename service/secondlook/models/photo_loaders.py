"""What the entry points ``photo``, ``photo-small`` and ``photo-large`` name: their loaders."""

from dataclasses import dataclass

from secondlook.config.settings import ModelSettings
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.verifier import Verifier
from secondlook.models import grounding_dino, vlm
from secondlook.models.photo import PHOTO_PAIRS, PhotoPair


@dataclass(frozen=True)
class PhotoLoader:
    """Loads the models of a pair, which are fetched if they are not cached."""

    pair: PhotoPair

    def load_proposer(self, argument: str, options: ModelSettings) -> Proposer:
        """Stage one; ``argument`` may be ``?max_phrases=…``, as behind ``transformers:``."""
        return grounding_dino.load(f"{self.pair.proposer.repository}{argument}", options)

    def load_verifier(self, argument: str, options: ModelSettings) -> Verifier:
        """Stage two; ``argument`` may be ``?tiles=all``."""
        return vlm.load(f"{self.pair.verifier.repository}{argument}", options)


SMALL, DEFAULT, LARGE = (
    PhotoLoader(PHOTO_PAIRS[name]) for name in ("photo-small", "photo", "photo-large")
)
