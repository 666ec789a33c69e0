"""The embedded verifier before it has learnt anything: tokenizer, processor and model.

Of the classes that SmolVLM-256M is published in (Idefics3), only smaller. A view is one tile of 96
pixels; its 64 patches are folded into 16 image tokens, which stand in front of the question so
that many questions can share them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

from secondlook.demo.verifier_questions import Facts, closed, questions
from secondlook.demo.verifier_views import SIDE
from secondlook.labels import View

PATCH = 12
GRID = SIDE // PATCH
FOLD = 2
"""Patches along a side of what becomes one image token."""
IMAGE_TOKENS = (GRID // FOLD) ** 2

PAD, UNKNOWN, IMAGE, AROUND, WHOLE, END = SPECIALS = (
    "<pad>",
    "<unk>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
HEAD = 32
"""Width of an attention head."""
ANSWERS = ("no", "yes")
OTHER_WORDS = (
    "man woman people someone child face eyes forehead his her their sunglasses spectacles "
    "puppy vehicle many how what where which who any all some one two be can do you see i in "
    "on at of off up down with and or not but answer please picture photo image object thing "
    "colour orange pink purple brown grey "
)
"""Words that people may use and no question of the training holds; they are learnt by nobody."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>{% endfor %}"
)
"""Each turn ends with its mark; what follows the mark of a question is the answer."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the two towers; widths are whole multiples of HEAD."""

    vision_width: int = 160
    vision_layers: int = 6
    text_width: int = 128
    text_layers: int = 3


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces in lower case: the words of the questions whole, others letter by letter."""
    marks = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*SPECIALS, *ANSWERS, *sorted(_words()), *marks, *(f"##{mark}" for mark in marks)]
    vocabulary = {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[IMAGE, AROUND, WHOLE],
        padding_side="left",
        model_max_length=512,
    )


def _words() -> set[str]:
    asked = {closed(q.text) for facts in _all_kinds() for q in questions(facts)}
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(" ".join(sorted(asked)).lower())
    return {word for word, _ in split} | set(OTHER_WORDS.split())


def _all_kinds() -> Iterator[Facts]:
    for view in View:
        yield Facts(view)


def build_processor() -> Idefics3Processor:
    """The view is stretched to one square tile, bilinear, and never split."""
    square = {"height": SIDE, "width": SIDE}
    return Idefics3Processor(
        Idefics3ImageProcessor(
            size=square,
            max_image_size={"longest_edge": SIDE},
            do_image_splitting=False,
            resample=2,
        ),
        build_tokenizer(),
        image_seq_len=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(seed: int, shape: Shape | None = None) -> Idefics3ForConditionalGeneration:
    """The model with random weights that depend on ``seed`` only."""
    shape = shape or Shape()
    tokenizer = build_tokenizer()
    pad, end, image = tokenizer.convert_tokens_to_ids([PAD, END, IMAGE])
    vision = _tower(shape.vision_width, shape.vision_layers) | {
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    text = _tower(shape.text_width, shape.text_layers) | {
        "model_type": "llama",
        "num_key_value_heads": shape.text_width // HEAD,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "pad_token_id": pad,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": False,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        scale_factor=FOLD,
        image_token_id=image,
        pad_token_id=pad,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    places = model.model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places.copy_(0.5 * waves(GRID, shape.vision_width))
    model.generation_config = GenerationConfig(
        pad_token_id=pad, eos_token_id=end, bos_token_id=end, max_new_tokens=4, do_sample=False
    )
    return model


def _tower(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": width // HEAD,
        "num_hidden_layers": layers,
        # The usual 0.02 is for widths of a thousand.
        "initializer_range": 0.05,
    }


def waves(grid: int, width: int) -> Tensor:
    """(grid * grid, width) sines and cosines of column and row: where position embeddings start.

    Neighbours are alike from the first step on, as in the plain ViT of arXiv 2205.01580.
    """
    speed = 1 / 10_000 ** (torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    x, y = column.flatten()[:, None] * speed, row.flatten()[:, None] * speed
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


@dataclass(frozen=True, eq=False)
class Seen:
    """Views after the image encoder.

    Attributes:
        patches: (V, GRID * GRID, vision width).
        features: what the text side gets of them, (V, IMAGE_TOKENS, text width).
    """

    patches: Tensor
    features: Tensor


def see(model: Idefics3ForConditionalGeneration, pixels: Tensor) -> Seen:
    """Encode views, (V, 3, SIDE, SIDE) in [-1, 1]."""
    mask = torch.ones(len(pixels), GRID, GRID, dtype=torch.bool, device=pixels.device)
    patches = model.model.vision_model(pixels, patch_attention_mask=mask).last_hidden_state
    return Seen(patches, model.model.connector(patches))


def read(
    model: Idefics3ForConditionalGeneration,
    head: list[int],
    features: Tensor,
    tokens: Tensor,
    part: Tensor,
    place: Tensor,
) -> Tensor:
    """Hidden states, (V, T, text width), of questions packed one behind another.

    ``head`` are the tokens up to the last image token; ``tokens``, ``part`` and ``place`` are
    those of ``verifier_data.Batch``. A question sees the image and itself, not its neighbours, so
    that it is answered as if it had been asked alone.
    """
    views, length = tokens.shape
    embed = model.get_input_embeddings()
    before = embed(torch.tensor(head, device=tokens.device)).expand(views, -1, -1).clone()
    images = torch.tensor(head) == model.config.image_token_id
    before[:, images.to(tokens.device)] = features.to(before.dtype)
    joined = torch.cat([before, embed(tokens)], dim=1)
    first = torch.arange(len(head), device=tokens.device).expand(views, -1)
    positions = torch.cat([first, place + len(head)], dim=1)
    own = torch.cat([torch.full_like(first, -2), part], dim=1)
    order = torch.arange(len(head) + length, device=tokens.device)
    same = (own[:, :, None] == own[:, None, :]) | (own[:, None, :] == -2)
    mask = (same & (order[:, None] >= order[None, :]))[:, None]
    hidden: Tensor = model.model.text_model(
        inputs_embeds=joined, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, len(head) :]


class Prompts:
    """The tokens of prompts, as the processor makes them: one head for all, a tail a question."""

    def __init__(self, processor: Idefics3Processor | None = None) -> None:
        self.tokenizer = (processor or build_processor()).tokenizer
        ids = self.tokenizer.convert_tokens_to_ids
        self.head = [ids(AROUND), ids(WHOLE), *([ids(IMAGE)] * IMAGE_TOKENS)]
        self.answers = (*ids(list(ANSWERS)), ids(END))
        """Tokens of no, of yes, and of the end."""
        self._tails: dict[str, list[int]] = {}

    def tail(self, words: str) -> list[int]:
        """The tokens behind the last image token, up to where the answer begins."""
        if words not in self._tails:
            self._tails[words] = self.tokenizer(f"{AROUND}{words}{END}")["input_ids"]
        return self._tails[words]


__all__ = [
    "GRID",
    "IMAGE_TOKENS",
    "Prompts",
    "Seen",
    "Shape",
    "build_model",
    "build_processor",
    "build_tokenizer",
    "read",
    "see",
]
