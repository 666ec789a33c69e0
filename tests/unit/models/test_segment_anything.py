"""The authors' own checkpoints: names translated, sizes read off the shapes, errors that help.

The files are written here under the authors' names; that these are right is shown against their
package in ``tests/peers``.
"""

import os
import pickle
import re
from pathlib import Path

import pytest
import sam_models as models
import torch

from secondlook.config.settings import ModelSettings
from secondlook.labeling.segmenter import SegmentationPrompt
from secondlook.models import sam, segment_anything
from secondlook.models.registry import load_segmenter
from secondlook_client.errors import NotFound

OPTIONS = ModelSettings(device="cpu")
THEIRS = [
    (r"^shared_image_embedding\..*", ""),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"layer_norm(\d|_final)", r"norm\1"),
    (r"(head|mlps\.\d)\.layers\.0\.", r"\1.layers.1."),
    (r"(head|mlps\.\d)\.proj_in\.", r"\1.layers.0."),
    (r"(head|mlps\.\d)\.proj_out\.", r"\1.layers.2."),
]
"""transformers' names and the authors', in the order in which they are replaced."""


def original_weights() -> dict[str, torch.Tensor]:
    """A random model's weights under the authors' names."""
    found = {}
    for name, value in models.model("sam").state_dict().items():
        for ours, theirs in THEIRS:
            name = re.sub(ours, theirs, name)
        if name:
            found[name] = value
    return found


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    return original_weights()


def write(folder: Path, content: object) -> Path:
    torch.save(content, folder / "sam_vit_t.pth")
    return folder / "sam_vit_t.pth"


@pytest.mark.parametrize("nested", [False, True])
def test_a_translated_checkpoint_is_the_same_model(
    original: dict[str, torch.Tensor], tmp_path: Path, nested: bool
) -> None:
    path = write(tmp_path, {"model": original} if nested else original)
    segmenter = load_segmenter(f"segment-anything:{path}", OPTIONS)
    assert isinstance(segmenter, sam.SamSegmenter) and segmenter.name == "sam_vit_t"
    ours = sam.load(str(models.save(tmp_path / "ours")), OPTIONS)
    expected, got = ours._model.state_dict(), segmenter._model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    image = models.image(100, 70)
    asked = [SegmentationPrompt(box=(10, 10, 60, 60)), SegmentationPrompt(inside=[(50, 35)])]
    for one, other in zip(
        segmenter.segment(segmenter.encode([image])[0], asked),
        ours.segment(ours.encode([image])[0], asked),
        strict=True,
    ):
        # The authors' norms add 1e-5 where transformers' own configuration has 1e-6.
        assert [m.quality for m in one] == pytest.approx([m.quality for m in other], abs=1e-2)


def test_sizes_are_read_off_the_shapes(original: dict[str, torch.Tensor]) -> None:
    config = segment_anything.config_of(original)
    expected = models.model("sam").config
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        own, wanted = getattr(config, part).to_dict(), getattr(expected, part).to_dict()
        different = {key for key in wanted if own[key] != wanted[key]}
        assert different <= {"layer_norm_eps"}, part


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Code()}, "code.pth")
    Path("plain.pth").write_bytes(pickle.dumps(_Code(), protocol=2))
    for name in ("code.pth", "plain.pth"):
        with pytest.raises(NotFound, match=f"'{name}' is damaged or holds more than weights"):
            segment_anything.load(name, OPTIONS)
    assert not Path("executed").exists()


def test_files_that_are_none_of_the_authors(
    original: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"no checkpoint 'absent\.pth' there; download sam_vit_b"):
        segment_anything.load("absent.pth", OPTIONS)
    with pytest.raises(NotFound, match="holds no weights of a model"):
        segment_anything.load(str(write(tmp_path, {"epoch": 3})), OPTIONS)
    tiny_vit = {"image_encoder.layers.0.blocks.0.conv1.c.weight": torch.zeros(3)}
    with pytest.raises(NotFound, match=r"no Segment Anything with a plain ViT .*sam-onnx"):
        segment_anything.load(str(write(tmp_path, tiny_vit)), OPTIONS)
    lacking = {k: v for k, v in original.items() if k != "mask_decoder.iou_token.weight"}
    with pytest.raises(NotFound, match=r"lacks 1 weights .*iou_token"):
        segment_anything.load(str(write(tmp_path, lacking)), OPTIONS)
    odd = original | {"mask_decoder.transformer.layers.0.mlp.lin1.bias": torch.zeros(3)}
    with pytest.raises(NotFound, match=r"'sam_vit_t\.pth' (is no|lacks)"):
        segment_anything.load(str(write(tmp_path, odd)), OPTIONS)
