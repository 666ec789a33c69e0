"""The embedded default: the small models that come with the package, behind the usual adapters.

They are real ``GroundingDinoForObjectDetection`` and ``FastVlmForConditionalGeneration``
checkpoints, trained on the demo world by the recipes in ``service/recipes``. They know that
world only; real images need real checkpoints. So that nobody takes their labels for more, their
names say "demo" wherever models are named, and a word that they never learned is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from secondlook.config.settings import ModelSettings
from secondlook.core.processors import multiplies_bfloat16
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.segmenter import (
    ImageEncoding,
    MaskCandidate,
    SegmentationPrompt,
    Segmenter,
)
from secondlook.labeling.verifier import Verifier
from secondlook.models import grounding_dino, sam, vlm
from secondlook.models.fastest_type import device_of
from secondlook_client.errors import BadOntology
from secondlook_client.values import Answer

EMBEDDED = Path(__file__).parent / "weights"
NOUN_WORDS: dict[str, tuple[str, ...]] = {
    "person": ("person", "people", "persons", "man", "woman", "pedestrian"),
    "glasses": ("glasses", "spectacles", "sunglasses", "eyeglasses"),
    "helmet": ("helmet", "helmets"),
    "dog": ("dog", "dogs", "puppy"),
    "car": ("car", "cars", "automobile", "vehicle"),
    "tree": ("tree", "trees"),
    "ball": ("ball", "balls"),
}
"""Words that name each noun of the world; the first is the noun itself."""
WAY_OUT = (
    "The demo models know only the synthetic images of `secondlook world`; for photos and other "
    "words run `--models photo`, or name a model with --proposer and --verifier"
)
_WORD = re.compile(r"[a-z]+")


class DemoProposer:
    """The embedded Grounding DINO, for phrases that hold one of ``NOUN_WORDS``."""

    name = "demo-proposer"

    def __init__(self, model: Proposer) -> None:
        self._model = model
        self.digest = model.digest
        self.device = device_of(model)

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``labeling.proposer.Proposer``."""
        return self._model.propose(images, phrases, floor)

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """See ``labeling.vocabulary.ChecksPhrases``. Words beside a noun do not matter to it."""
        nouns = {word for words in NOUN_WORDS.values() for word in words}
        for phrase in phrases:
            if nouns.isdisjoint(_WORD.findall(phrase)):
                raise BadOntology(
                    f"the demo proposer cannot find '{phrase:.60}': it has learned "
                    f"{', '.join(NOUN_WORDS)}. {WAY_OUT}"
                )


class DemoVerifier:
    """The embedded yes/no model, for questions of words that it has read."""

    name = "demo-verifier"

    def __init__(self, model: Verifier) -> None:
        self._model = model
        self.digest = model.digest
        self.device = device_of(model)
        self.min_side = model.min_side
        tokenizer = json.loads((EMBEDDED / "verifier" / "tokenizer.json").read_text("utf-8"))
        self._words = frozenset(tokenizer["model"]["vocab"])

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """See ``labeling.verifier.Verifier``."""
        return self._model.answer(queries)

    def check_questions(self, questions: Sequence[str]) -> None:
        """See ``labeling.vocabulary.ChecksQuestions``. It reads other words letter by letter."""
        for question in questions:
            unknown = [w for w in _WORD.findall(question.lower()) if w not in self._words]
            if unknown:
                known = sorted(word for word in self._words if len(word) > 2 and word.isalpha())
                raise BadOntology(
                    f"the demo verifier does not know '{unknown[0]:.60}' of the question "
                    f"'{question:.80}'; its words are {', '.join(known)}. {WAY_OUT}"
                )


class DemoSegmenter:
    """The embedded segmenter. It outlines whatever a box or a click means; masks of objects that
    are not of its world are poor."""

    name = "demo-segmenter"

    def __init__(self, model: Segmenter) -> None:
        self._model = model
        self.digest = model.digest

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """See ``labeling.segmenter.Segmenter``."""
        return self._model.encode(images)

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """See ``labeling.segmenter.Segmenter``."""
        return self._model.segment(encoding, prompts)


def load_proposer(argument: str, options: ModelSettings) -> DemoProposer:
    """The embedded Grounding DINO; ``argument`` is not used."""
    # Canvases in steps of 32 pixels, as in its training: more shapes of images share a batch.
    return DemoProposer(grounding_dino.load(f"{EMBEDDED / 'proposer'}?pad=32", options))


def load_verifier(argument: str, options: ModelSettings) -> DemoVerifier:
    """The embedded yes/no vision-language model; ``argument`` is not used.

    Runs in bfloat16 where the processor multiplies it natively: 1.7 times as fast, and P(yes) on
    256 views moved by at most 0.024, none across 0.5.
    """
    if options.dtype == "auto" and multiplies_bfloat16():
        options = replace(options, dtype="bfloat16")
    return DemoVerifier(vlm.load(str(EMBEDDED / "verifier"), options))


def load_segmenter(argument: str, options: ModelSettings) -> DemoSegmenter:
    """The embedded segmenter; ``argument`` is not used."""
    return DemoSegmenter(sam.load(str(EMBEDDED / "segmenter"), options))
