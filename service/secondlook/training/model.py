"""The students: DEIMv2 and D-FINE of transformers, in three sizes, and what they begin from.

A student begins from COCO weights where a hub is within reach, from the embedded start otherwise,
or from any folder or hub name of these two architectures. Its classes are the data's: heads of
other classes are made anew, everything that fits is kept. Importing this module makes the short
stem known to transformers, which a saved student may have.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModelForObjectDetection,
    Deimv2Config,
    Deimv2ForObjectDetection,
    HGNetV2Backbone,
    HGNetV2Config,
)
from transformers.models.hgnet_v2.modeling_hgnet_v2 import HGNetV2ConvLayer
from transformers.utils import logging as transformers_logging

from secondlook.models.embedded import EMBEDDED
from secondlook_client.errors import BadSetting, NotFound, NotSupported

log = logging.getLogger(__name__)

ARCHITECTURES = ("deimv2", "d_fine")


@dataclass(frozen=True)
class StudentShape:
    """One size: the checkpoint with COCO weights, and our own shape where that is out of reach."""

    checkpoint: str
    """Of a hub, in transformers' format; empty where none is known."""
    input_size: tuple[int, int]
    """Width and height of our own shape's images."""
    stem: int
    stages: tuple[int, int, int]
    """Channels after strides 4, 8 and 16; the last two are what the decoder sees."""
    width: int
    """Of encoder and decoder."""
    layers: int
    """Of the decoder."""
    queries: int
    lite: bool
    """DEIMv2's encoder for the small sizes."""


SIZES = {
    "pico": StudentShape("", (224, 224), 16, (32, 96, 192), 64, 2, 48, True),
    "nano": StudentShape(
        "ustc-community/dfine-nano-coco", (320, 320), 16, (64, 128, 256), 96, 3, 80, True
    ),
    "small": StudentShape(
        "ustc-community/dfine-small-coco", (416, 416), 24, (64, 256, 512), 128, 3, 150, False
    ),
}
HUB_INPUT = (640, 640)
"""What the checkpoints with COCO weights were trained on."""


@dataclass(frozen=True, eq=False)
class StudentStart:
    """A student before its training, and where its weights come from."""

    model: nn.Module
    """``Deimv2ForObjectDetection`` or ``DFineForObjectDetection``."""
    source: str
    """For the report: a checkpoint, ``embedded start``, or ``nothing``."""
    input_size: tuple[int, int]
    """Width and height of its images."""


def build_student(
    size: str,
    classes: tuple[str, ...],
    start: str = "auto",
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> StudentStart:
    """A student for ``classes``.

    ``start``: ``auto`` (COCO weights, else the embedded start, else nothing), ``demo`` (the
    embedded start), ``none``, a folder with ``config.json`` and ``model.safetensors``, or the name
    of a checkpoint on a hub. Raises ``BadSetting`` for an unknown size, ``NotFound`` for a start
    that cannot be had, ``NotSupported`` for another architecture.
    """
    if size not in SIZES:
        raise BadSetting(f"there is no size '{size}'; known are {', '.join(SIZES)}")
    torch.manual_seed(seed)
    if start == "none":
        return _from_scratch(size, classes, input_size)
    if start == "demo":
        return _from_folder(str(_embedded(size)), classes, input_size, "embedded start")
    if start != "auto":
        return _from_folder(start, classes, input_size, start)
    return _from_best_available(size, classes, input_size)


def load_student(folder: Path) -> nn.Module:
    """A student as it was saved, ready to predict. Raises ``NotFound`` and ``NotSupported``."""
    return _pretrained(str(folder)).eval()


def save_student(model: nn.Module, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    saved: Any = model
    saved.save_pretrained(folder, safe_serialization=True)


def input_size_of(model: nn.Module) -> tuple[int, int]:
    """Width and height of the images that a student was made for."""
    config: Any = model.config
    size = getattr(config, "student_input_size", None)
    return (int(size[0]), int(size[1])) if size else HUB_INPUT


def _from_best_available(
    size: str, classes: tuple[str, ...], input_size: tuple[int, int] | None
) -> StudentStart:
    checkpoint = SIZES[size].checkpoint
    if checkpoint:
        try:
            return _from_folder(checkpoint, classes, input_size, checkpoint)
        except NotFound:
            log.warning("'%s' cannot be fetched from the hub", checkpoint)
    if (EMBEDDED / f"student-{size}").is_dir():
        return _from_folder(str(_embedded(size)), classes, input_size, "embedded start")
    log.warning(
        "a %s student begins from nothing, which takes many more images and steps; "
        "--start names a checkpoint or a folder to begin from",
        size,
    )
    return _from_scratch(size, classes, input_size)


def _embedded(size: str) -> Path:
    folder = EMBEDDED / f"student-{size}"
    if not folder.is_dir():
        known = sorted(path.name.removeprefix("student-") for path in EMBEDDED.glob("student-*"))
        raise NotFound(
            f"there is no embedded start of size '{size}' (there is: {', '.join(known)}); choose "
            "another size, or --start none"
        )
    return folder


def _from_scratch(
    size: str, classes: tuple[str, ...], input_size: tuple[int, int] | None
) -> StudentStart:
    pixels = input_size or SIZES[size].input_size
    model = Deimv2ForObjectDetection(own_config(SIZES[size], classes, pixels))
    return StudentStart(model, "nothing", pixels)


def _from_folder(
    start: str, classes: tuple[str, ...], input_size: tuple[int, int] | None, source: str
) -> StudentStart:
    config = _config(start)
    pixels = input_size or getattr(config, "student_input_size", None) or HUB_INPUT
    pixels = (int(pixels[0]), int(pixels[1]))
    known = tuple(config.id2label[index] for index in sorted(config.id2label))
    set_input_size(config, pixels)
    learned = _pretrained(start, config).state_dict()
    _name_classes(config, classes)
    model = _pretrained(start, config)
    _copy_class_rows(learned, model, inherited_classes(known, classes))
    return StudentStart(model, source, pixels)


def inherited_classes(known: tuple[str, ...], classes: tuple[str, ...]) -> dict[int, int]:
    """Which of the known classes each new one begins as, by place; none for what is quite new.

    The class of the same name, else the first known one that the name mentions: a "person wearing
    glasses" begins as a person, a "red car" as a car.
    """
    places = {" ".join(name.casefold().split()): place for place, name in enumerate(known)}
    found: dict[int, int] = {}
    for place, name in enumerate(classes):
        words = f" {' '.join(name.casefold().split())} "
        mentioned = [
            (words.find(f" {old} "), -len(old), old) for old in places if f" {old} " in words
        ]
        if mentioned:
            found[place] = places[min(mentioned)[2]]
    return found


def _copy_class_rows(
    learned: dict[str, Tensor], model: nn.Module, inherited: dict[int, int]
) -> None:
    """Give each new class the rows that every head of the start has for the class it begins as."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            old = learned.get(name)
            if old is not None and old.shape != value.shape and old.shape[1:] == value.shape[1:]:
                for new_row, old_row in inherited.items():
                    value[new_row] = old[old_row]


def _config(start: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(start)
    except (OSError, ValueError) as cause:
        raise NotFound(
            f"'{start}' is neither a folder with a student nor a checkpoint that can be fetched"
        ) from cause
    if config.model_type not in ARCHITECTURES:
        raise NotSupported(
            f"'{start}' is a {config.model_type}; students are {' or '.join(ARCHITECTURES)}"
        )
    return config


def _pretrained(start: str, config: Any = None) -> nn.Module:
    config = config or _config(start)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # heads of other classes are expected
    try:
        model: nn.Module = AutoModelForObjectDetection.from_pretrained(
            start, config=config, use_safetensors=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    return model


def own_config(size: StudentShape, classes: tuple[str, ...], pixels: tuple[int, int]) -> Any:
    """DEIMv2 with a narrow HGNetV2, strides 8 and 16."""
    backbone = HGNetV2Config(
        stem_channels=[3, size.stem, size.stem],
        depths=[1, 1, 1],
        hidden_sizes=list(size.stages),
        stage_in_channels=[size.stem, *size.stages[:2]],
        stage_mid_channels=[16 * max(1, round(channels / 64)) for channels in size.stages],
        stage_out_channels=list(size.stages),
        stage_num_blocks=[1, 1, 1],
        stage_downsample=[False, True, True],
        stage_downsample_strides=[2, 2, 2],
        stage_light_block=[False, False, True],
        stage_kernel_size=[3, 3, 5],
        stage_numb_of_layers=[3, 3, 3],
        use_learnable_affine_block=True,
        out_indices=[2, 3],
    )
    config = Deimv2Config(
        backbone_config=backbone,
        encoder_in_channels=list(size.stages[1:]),
        feat_strides=[8, 16],
        num_feature_levels=2,
        encode_proj_layers=[1],
        encoder_hidden_dim=size.width,
        d_model=size.width,
        decoder_in_channels=[size.width] * 2,
        encoder_ffn_dim=2 * size.width,
        decoder_ffn_dim=2 * size.width,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=size.layers,
        num_queries=size.queries,
        num_denoising=size.queries,
        hidden_expansion=0.5,
        depth_mult=0.5,
        encoder_type="lite" if size.lite else "hybrid",
        # The published 0.01 is for widths of 256; these hardly learn with it (see recipes/LOG.md).
        initializer_range=0.08,
        freeze_backbone_batch_norms=False,
        focal_loss_gamma=1.5,
    )
    _name_classes(config, classes)
    set_input_size(config, pixels)
    return config


def _name_classes(config: Any, classes: tuple[str, ...]) -> None:
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: index for index, name in enumerate(classes)}


def set_input_size(config: Any, pixels: tuple[int, int]) -> None:
    """Make a student's configuration one for images of ``pixels`` (width, height), in place.

    Anchors and position codes of one image size are computed once. Raises ``BadSetting`` for
    sides that the model's strides do not divide.
    """
    stride = max(config.feat_strides)
    if any(side % stride or not 32 <= side <= 2048 for side in pixels):
        raise BadSetting(
            f"images of {pixels[0]}x{pixels[1]} do not fit; both sides must be multiples of "
            f"{stride} from 32 to 2048"
        )
    config.student_input_size = list(pixels)
    if config.model_type == "deimv2":
        # Not `eval_size`: with it the hybrid encoder leaves its positions out when it predicts.
        config.anchor_image_size = [pixels[1], pixels[0]]


class ShortStemConfig(HGNetV2Config):
    """HGNetV2's; of ``stem_channels`` the stem's convolutions have the last two."""

    model_type = "secondlook_hgnet_v2"


class ShortStem(nn.Module):
    """Two convolutions of stride 2 in place of HGNetV2's stem.

    That one takes a third of a small student's time: four convolutions, a pooling and a join on
    maps of half the image's side. The maps have the same shape.
    """

    def __init__(self, config: ShortStemConfig) -> None:
        super().__init__()
        colours, half, quarter = config.stem_channels
        affine = config.use_learnable_affine_block
        self.first = HGNetV2ConvLayer(colours, half, 3, 2, use_learnable_affine_block=affine)
        self.second = HGNetV2ConvLayer(half, quarter, 3, 2, use_learnable_affine_block=affine)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, C, H/4, W/4)."""
        found: Tensor = self.second(self.first(pixels))
        return found


class ShortStemBackbone(HGNetV2Backbone):
    """HGNetV2 behind a ``ShortStem``."""

    config_class = ShortStemConfig

    def __init__(self, config: ShortStemConfig) -> None:
        super().__init__(config)
        self.embedder = ShortStem(config)
        self.post_init()


AutoConfig.register(ShortStemConfig.model_type, ShortStemConfig)
AutoBackbone.register(ShortStemConfig, ShortStemBackbone)
