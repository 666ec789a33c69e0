"""The baseline: a straightforward loop over the same two checkpoints, written with transformers.

Processor, model, post-processing, then one ``generate`` per box; nothing is batched or shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as PILImage
from torchvision.ops import batched_nms
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)

from secondlook.core.boxes import padded_window
from secondlook.labeling.verifier import CROP_MARGIN
from secondlook.models.embedded import EMBEDDED
from secondlook.models.grounding_dino import read_pixel_settings

NMS_IOU = 0.5
DEMO_PAD = 32
"""As the demo proposer pads."""


@dataclass(frozen=True)
class BaselineClass:
    """One class that the loop labels."""

    phrase: str
    question: str
    threshold: float
    """Lowest proposer score at which the question is asked."""


class BaselineVerifier:
    """``generate`` for one box and one question at a time."""

    def __init__(
        self,
        folder: Path = EMBEDDED / "verifier",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        self.model = model.eval().to(device)

    @torch.inference_mode()
    def yes(self, crop: PILImage.Image, question: str) -> bool:
        """Whether the first word of the answer is yes."""
        content = [{"type": "image"}, {"type": "text", "text": f"{question} Answer yes or no."}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=prompt, images=[[crop]], return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        output = self.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        words = self.processor.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return words[0].strip().lower() == "yes"


class BaselineProposer:
    """transformers' own processor and post-processing, one image at a time."""

    def __init__(
        self, folder: Path = EMBEDDED / "proposer", device: str = "cpu", pad: int = 1
    ) -> None:
        """Images are padded to a multiple of ``pad`` pixels: it changes scores a little."""
        self.processor = GroundingDinoProcessor.from_pretrained(folder)
        self.model = GroundingDinoForObjectDetection.from_pretrained(folder).eval().to(device)
        self.pixels = read_pixel_settings(self.processor.image_processor, multiple=pad)

    @torch.inference_mode()
    def boxes(
        self, image: PILImage.Image, phrases: Sequence[str], threshold: float
    ) -> list[tuple[list[float], str, float]]:
        """Pixel xyxy boxes, the phrase that transformers decodes for each, and its score."""
        caption = " . ".join(phrases) + " ."
        canvas = self.pixels.canvas(self.pixels.resized(image.height, image.width))
        pad = {"height": canvas[0], "width": canvas[1]}
        inputs = self.processor(images=image, text=caption, return_tensors="pt", pad_size=pad)
        inputs = inputs.to(self.model.device)
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
    proposer: BaselineProposer,
    verifier: BaselineVerifier,
    image: PILImage.Image,
    classes: Sequence[BaselineClass],
) -> list[tuple[list[float], BaselineClass, float]]:
    """Label one image; returns the boxes that were confirmed, with their class and score.

    Of boxes of one class with an IoU above ``NMS_IOU`` the best stays.
    """
    phrases = list(dict.fromkeys(item.phrase for item in classes))
    lowest = min(item.threshold for item in classes)
    confirmed = []
    for box, phrase, score in proposer.boxes(image, phrases, lowest):
        x1, y1, x2, y2 = box
        window = padded_window((x1, y1, x2, y2), CROP_MARGIN, image.width, image.height)
        crop = image.crop(window)
        for item in classes:
            if item.phrase != phrase or score < item.threshold:
                continue
            if verifier.yes(crop, item.question):
                confirmed.append((box, item, score))
    if not confirmed:
        return []
    boxes = torch.tensor([box for box, _, _ in confirmed])
    scores = torch.tensor([score for _, _, score in confirmed])
    of_class = torch.tensor([classes.index(item) for _, item, _ in confirmed])
    return [confirmed[at] for at in batched_nms(boxes, scores, of_class, NMS_IOU)]
