"""The plain way: what a careful person writes in an afternoon with the same two checkpoints.

processor → model → post-process, then one ``generate`` a box; nothing batched, nothing shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image as PILImage
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)

from secondlook.core.boxes import padded_window
from secondlook.labeling.verifier import CROP_MARGIN
from secondlook.models.embedded import EMBEDDED


@dataclass(frozen=True)
class Wanted:
    """One class, for the plain loop."""

    phrase: str
    question: str
    threshold: float
    """Proposer score from which the question is asked."""


class PlainVerifier:
    """``generate`` for one box and one question at a time."""

    def __init__(self) -> None:
        folder = EMBEDDED / "verifier"
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    @torch.inference_mode()
    def yes(self, crop: PILImage.Image, question: str) -> bool:
        """Whether the model's first word is yes."""
        content = [{"type": "image"}, {"type": "text", "text": f"{question} Answer yes or no."}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=prompt, images=[[crop]], return_tensors="pt")
        made = self.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        words = self.processor.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return words[0].strip().lower() == "yes"


class PlainProposer:
    """transformers' own processor and post-processing, one image at a time."""

    def __init__(self) -> None:
        folder = EMBEDDED / "proposer"
        self.processor = GroundingDinoProcessor.from_pretrained(folder)
        self.model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()

    @torch.inference_mode()
    def boxes(
        self, image: PILImage.Image, phrases: Sequence[str], threshold: float
    ) -> list[tuple[list[float], str, float]]:
        """Pixel xyxy boxes, the phrase that transformers decodes for each, and its score."""
        caption = " . ".join(phrases) + " ."
        inputs = self.processor(images=image, text=caption, return_tensors="pt")
        outputs = self.model(**inputs)
        found = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=threshold,
            text_threshold=threshold,
            target_sizes=[(image.height, image.width)],
        )[0]
        scores = found["scores"].tolist()
        return list(zip(found["boxes"].tolist(), found["text_labels"], scores, strict=True))


def label(
    proposer: PlainProposer,
    verifier: PlainVerifier,
    image: PILImage.Image,
    wanted: Sequence[Wanted],
) -> int:
    """Label one image; returns how many boxes were confirmed."""
    phrases = list(dict.fromkeys(item.phrase for item in wanted))
    lowest = min(item.threshold for item in wanted)
    confirmed = 0
    for box, phrase, score in proposer.boxes(image, phrases, lowest):
        x1, y1, x2, y2 = box
        window = padded_window((x1, y1, x2, y2), CROP_MARGIN, image.width, image.height)
        crop = image.crop(window)
        for item in wanted:
            if item.phrase == phrase and score >= item.threshold:
                confirmed += verifier.yes(crop, item.question)
    return confirmed
