"""Checkpoints of real size with random weights: GDINO-T, and a VLM of SmolVLM-256M's shape."""

from pathlib import Path
from typing import Any

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

from secondlook.models.embedded import EMBEDDED


def save_proposer(folder: Path, shortest: int = 800) -> None:
    """A checkpoint of GDINO-T, for images whose shorter side is brought to so many pixels."""
    processor = GroundingDinoProcessor.from_pretrained(EMBEDDED / "proposer")
    processor.image_processor.size = {"shortest_edge": shortest, "longest_edge": 1333}
    processor.save_pretrained(folder)
    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)


def save_verifier(folder: Path) -> int:
    """A checkpoint of SmolVLM-256M's shape; returns the side of a tile.

    Its processor does what the published one does: it enlarges an image to four tiles a side, and
    cuts it into those beside a small copy.
    """
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "verifier")
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer.add_tokens(places, special_tokens=True)
    config = _smolvlm_256m(tokenizer)
    size = config.vision_config.image_size
    tokens = (size // config.vision_config.patch_size) ** 2 // config.scale_factor**2
    tile, whole = {"longest_edge": size}, {"longest_edge": 4 * size}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size=whole, max_image_size=tile, do_image_splitting=True),
        tokenizer,
        SmolVLMVideoProcessor(size=tile, max_image_size=tile, num_frames=1, fps=1),
        image_seq_len=tokens,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    return int(size)


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
