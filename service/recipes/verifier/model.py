"""The embedded verifier before it has learnt anything: tokenizer, processor and model.

Of FastVLM's classes, whose image encoder is convolutional: here a small ResNet, because a plain
vision transformer did not learn details of a few pixels in the time that one core has (LOG.md).
A view is one tile of 96 pixels; its 36 image tokens stand in front of the question so that many
questions can share them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ResNetConfig,
)

from recipes.verifier.questions import Facts, prompt, questions
from recipes.verifier.views import SIDE
from secondlook_client.values import View

PATCH = 16
"""Stride of the image encoder."""
GRID = SIDE // PATCH
IMAGE_TOKENS = GRID**2

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
class VerifierShape:
    """Sizes of the two towers; the text's width is a whole multiple of HEAD."""

    vision_widths: tuple[int, int, int] = (32, 64, 128)
    """At strides 4, 8 and 16."""
    vision_blocks: int = 2
    """At each stride."""
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
    asked = {prompt(q.text) for facts in _all_kinds() for q in questions(facts)}
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(" ".join(sorted(asked)).lower())
    return {word for word, _ in split} | set(OTHER_WORDS.split())


def _all_kinds() -> Iterator[Facts]:
    for view in View:
        yield Facts(view)


def build_processor() -> LlavaProcessor:
    """The view is stretched to one square tile, bilinear, and never split."""
    square = {"height": SIDE, "width": SIDE}
    halves = [0.5, 0.5, 0.5]
    return LlavaProcessor(
        CLIPImageProcessor(
            size=square, do_center_crop=False, resample=2, image_mean=halves, image_std=halves
        ),
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build_model(seed: int, shape: VerifierShape | None = None) -> FastVlmForConditionalGeneration:
    """The model with random weights that depend on ``seed`` only."""
    shape = shape or VerifierShape()
    tokenizer = build_tokenizer()
    pad, end, image = tokenizer.convert_tokens_to_ids([PAD, END, IMAGE])
    vision = ResNetConfig(
        embedding_size=shape.vision_widths[0],
        hidden_sizes=list(shape.vision_widths),
        depths=[shape.vision_blocks] * 3,
        layer_type="basic",
        hidden_size=shape.vision_widths[-1],
    )
    text = {
        "model_type": "llama",
        "hidden_size": shape.text_width,
        "intermediate_size": 2 * shape.text_width,
        "num_attention_heads": shape.text_width // HEAD,
        "num_key_value_heads": shape.text_width // HEAD,
        "num_hidden_layers": shape.text_layers,
        "initializer_range": 0.05,  # the usual 0.02 is for widths of a thousand
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "pad_token_id": pad,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": False,
    }
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        image_seq_length=IMAGE_TOKENS,
        pad_token_id=pad,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = FastVlmForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        pad_token_id=pad, eos_token_id=end, bos_token_id=end, max_new_tokens=4, do_sample=False
    )
    return model


@dataclass(frozen=True, eq=False)
class EncodedViews:
    """Views after the image encoder.

    Attributes:
        patches: (V, GRID * GRID, vision width).
        features: what the text side gets of them, (V, IMAGE_TOKENS, text width).
    """

    patches: Tensor
    features: Tensor


def encode_views(model: FastVlmForConditionalGeneration, pixels: Tensor) -> EncodedViews:
    """Encode views, (V, 3, SIDE, SIDE) in [-1, 1]."""
    cells = model.model.vision_tower(pixels).last_hidden_state
    patches = cells.flatten(2).transpose(1, 2)
    return EncodedViews(patches, model.model.multi_modal_projector(patches))


def question_states(
    model: FastVlmForConditionalGeneration,
    head: list[int],
    features: Tensor,
    tokens: Tensor,
    part: Tensor,
    place: Tensor,
) -> Tensor:
    """Hidden states, (V, T, text width), of questions packed one behind another.

    ``head`` are the tokens up to the last image token; ``tokens``, ``part`` and ``place`` are
    those of ``data.VerifierBatch``. A question sees the image and itself, not its neighbours, so
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
    hidden: Tensor = model.model.language_model(
        inputs_embeds=joined, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, len(head) :]


class PromptTokens:
    """The tokens of prompts, as the processor makes them: one head for all, a tail a question."""

    def __init__(self, processor: LlavaProcessor | None = None) -> None:
        self.tokenizer = (processor or build_processor()).tokenizer
        ids = self.tokenizer.convert_tokens_to_ids
        self.head = [ids(IMAGE)] * IMAGE_TOKENS
        self.answers = (*ids(list(ANSWERS)), ids(END))
        """Tokens of no, of yes, and of the end."""
        self._tails: dict[str, list[int]] = {}

    def tail(self, words: str) -> list[int]:
        """The tokens behind the last image token, up to where the answer begins."""
        if words not in self._tails:
            self._tails[words] = self.tokenizer(f"{words}{END}")["input_ids"]
        return self._tails[words]
