"""Very small random vision-language models with real classes, tokenizers and processors.

Nothing is downloaded. Weights are drawn wide, so that another image or question gives a clearly
different answer: with the classes' own initialisation all answers would be nearly equal.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

TEXT = (
    "yes no Yes No YES is this a the red blue dog cat car ball tree person wearing glasses not in "
    "image small large Is it Are Answer or maybe User Assistant : ? . ,"
)
TEMPLATE = (
    "{% for message in messages %}User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} Assistant:{% endif %}"
)


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Whole words and punctuation; ``special`` tokens are cut out of any text first."""
    known = ["<pad>", "<unk>", "<bos>", "<eos>", *special, *TEXT.split()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def wide(model: Any, seed: int = 0) -> Any:
    """The model with weights drawn wide and its own generator, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            fan = weight[0].numel()
            weight.data.normal_(0, 1.6 / fan**0.5, generator=generator)
        elif "norm" not in name:
            weight.data.normal_(0, 0.1, generator=generator)
    return model.eval()


def smolvlm(split: bool = False, longest: int = 128) -> tuple[Any, Any]:
    """SmolVLM, 64 px, 16 image tokens a tile; with ``split`` views are enlarged to ``longest``."""
    image, fake, whole = "<image>", "<fake_token_around_image>", "<global-img>"
    tiles = [f"<row_{r}_col_{c}>" for r in (1, 2, 3) for c in (1, 2, 3)]
    text = tokenizer(
        image, fake, whole, "<end_of_utterance>", *tiles, image_token=image,
        fake_image_token=fake, global_image_token=whole,
        end_of_utterance_token="<end_of_utterance>",
    )  # fmt: skip
    images = SmolVLMImageProcessor(
        size={"longest_edge": longest if split else 64},
        max_image_size={"longest_edge": 64},
        do_image_splitting=split,
    )
    video = SmolVLMVideoProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 64}, num_frames=1, fps=1
    )
    template = TEMPLATE.replace("IMAGE", image)
    processor = SmolVLMProcessor(images, text, video, image_seq_len=16, chat_template=template)
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
        },
        text_config={"model_type": "llama", **_small_text(text)},
        image_token_id=text.convert_tokens_to_ids(image),
        scale_factor=2,
    )  # fmt: skip
    return wide(SmolVLMForConditionalGeneration(config)), processor


def qwen(version: str = "2") -> tuple[Any, Any]:
    """Qwen2-VL ("2") or Qwen2.5-VL ("2.5"): images of any size, positions in three axes."""
    marks = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    text = tokenizer(*marks)
    images = Qwen2VLImageProcessor(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
    template = TEMPLATE.replace("IMAGE", "".join(marks[:3]))
    vision = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
    if version == "2":
        vision |= {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
        family = (Qwen2VLProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration)
    else:
        vision |= {
            "hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 64,
            "window_size": 32, "fullatt_block_indexes": [1],
        }  # fmt: skip
        family = (Qwen2_5_VLProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)
    config = family[1](
        text_config={
            **_small_text(text),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2],
            },
        },
        vision_config=vision,
        image_token_id=text.convert_tokens_to_ids(marks[1]),
        video_token_id=text.convert_tokens_to_ids(marks[3]),
        vision_start_token_id=text.convert_tokens_to_ids(marks[0]),
        vision_end_token_id=text.convert_tokens_to_ids(marks[2]),
    )  # fmt: skip
    processor = family[0](images, text, Qwen2VLVideoProcessor(), chat_template=template)
    return wide(family[2](config)), processor


def gemma3() -> tuple[Any, Any]:
    """Gemma 3: image tokens see each other both ways, every other layer looks back 8 tokens."""
    begin, soft, end = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
    text = tokenizer(begin, soft, end, boi_token=begin, image_token=soft, eoi_token=end)
    images = Gemma3ImageProcessor(size={"height": 64, "width": 64})
    template = "<bos>" + TEMPLATE.replace("IMAGE", begin)
    processor = Gemma3Processor(images, text, chat_template=template, image_seq_length=16)
    config = Gemma3Config(
        text_config={
            **_small_text(text), "head_dim": 12, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 12,
        },
        vision_config=_siglip(),
        mm_tokens_per_image=16,
        boi_token_index=text.convert_tokens_to_ids(begin),
        eoi_token_index=text.convert_tokens_to_ids(end),
        image_token_id=text.convert_tokens_to_ids(soft),
    )  # fmt: skip
    return wide(Gemma3ForConditionalGeneration(config)), processor


def internvl() -> tuple[Any, Any]:
    """InternVL: the grid of tiles of 64 px that is nearest to an image's shape, and a copy."""
    soft, begin, end, film = "<IMG_CONTEXT>", "<img>", "</img>", "<video>"
    text = tokenizer(
        soft, begin, end, film, context_image_token=soft, start_image_token=begin,
        end_image_token=end, video_token=film,
    )  # fmt: skip
    images = GotOcr2ImageProcessor(size={"height": 64, "width": 64}, max_patches=6)
    video = InternVLVideoProcessor(size={"height": 64, "width": 64})
    template = TEMPLATE.replace("IMAGE", soft)
    processor = InternVLProcessor(images, text, video, image_seq_length=16, chat_template=template)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_small_text(text)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": [64, 64], "patch_size": [8, 8],
        },
        image_token_id=text.convert_tokens_to_ids(soft),
        image_seq_length=16,
    )  # fmt: skip
    return wide(InternVLForConditionalGeneration(config)), processor


def paligemma() -> tuple[Any, Any]:
    """PaliGemma: the whole prompt is read in both directions, so its head depends on its tail."""
    text = tokenizer("<image>", image_token="<image>")
    images = SiglipImageProcessor(size={"height": 64, "width": 64})
    images.image_seq_length = 64
    processor = PaliGemmaProcessor(images, text)
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **_small_text(text), "head_dim": 12},
        vision_config=_siglip(),
        image_token_id=text.convert_tokens_to_ids("<image>"),
        projection_dim=48,
        hidden_size=48,
    )
    return wide(PaliGemmaForConditionalGeneration(config)), processor


def save(made: tuple[Any, Any], folder: Path) -> Path:
    """Write a model and its processor as a checkpoint folder."""
    for part in made:
        part.save_pretrained(folder)
    return folder


def _small_text(text: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(text),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }


def _siglip() -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "vision_use_head": False,
    }
