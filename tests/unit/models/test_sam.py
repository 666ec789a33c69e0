"""Transformers' segmenters: the same masks as by their own processors, in batches or one by one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sam_models as models
import torch
from transformers import AutoModelForMaskGeneration

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.labeling.segmenter import MaskCandidate, SegmentationPrompt, Segmenter
from secondlook.models import embedded, sam
from secondlook.models.registry import load_segmenter
from secondlook_client.errors import BadSetting, InvalidInput, NotFound

OPTIONS = ModelSettings(device="cpu")
SIZES = [(100, 70), (40, 90), (64, 64), (300, 20), (1, 1)]
"""Wide, tall, as the model's input, long and thin, and a single pixel."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind."""
    return {kind: models.save(tmp_path_factory.mktemp(kind), kind) for kind in models.KINDS}


@pytest.fixture(scope="module")
def segmenters(folders: dict[str, Path]) -> dict[str, Segmenter]:
    """All kinds, loaded as a user names them."""
    found = {kind: load_segmenter(f"sam:{folder}", OPTIONS) for kind, folder in folders.items()}
    return {kind: segmenter for kind, segmenter in found.items() if segmenter is not None}


def prompts(width: int, height: int) -> list[SegmentationPrompt]:
    """Of every shape, some alike."""
    at = lambda x, y: (x * width, y * height)  # noqa: E731
    boxes = [(*at(0.1, 0.2), *at(0.7, 0.9)), (*at(0.3, 0.1), *at(0.9, 0.6))]
    previous = np.zeros((height, width), bool)
    previous[: -(-height // 2)] = True
    return [
        SegmentationPrompt(box=boxes[0]),
        SegmentationPrompt(inside=[at(0.5, 0.5)]),
        SegmentationPrompt(box=boxes[1]),
        SegmentationPrompt(inside=[at(0.5, 0.5), at(0.4, 0.3)]),
        SegmentationPrompt(inside=[at(0.5, 0.5)], outside=[at(0.1, 0.1)]),
        SegmentationPrompt(box=boxes[1], inside=[at(0.5, 0.4)]),
        SegmentationPrompt(inside=[at(0.2, 0.4)]),
        SegmentationPrompt(previous=previous),
        SegmentationPrompt(box=boxes[0], previous=~previous),
        SegmentationPrompt(box=boxes[0], previous=previous),
    ]


def assert_same(first: tuple[MaskCandidate, ...], second: tuple[MaskCandidate, ...]) -> None:
    """But for rounding."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.quality == pytest.approx(other.quality, abs=1e-4)
        assert (one.pixels != other.pixels).mean() < 1e-3


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_batch_gives_the_same_masks_as_one_by_one(
    segmenters: dict[str, Segmenter], kind: str
) -> None:
    segmenter = segmenters[kind]
    images = [models.image(*size, seed) for seed, size in enumerate(SIZES)]
    for image, encoding in zip(images, segmenter.encode(images), strict=True):
        asked = prompts(image.width, image.height)
        together = segmenter.segment(encoding, asked)
        (alone,) = segmenter.encode([image])
        assert encoding.size == alone.size == (image.width, image.height)
        assert encoding.nbytes == alone.nbytes > 0
        for prompt, found in zip(asked, together, strict=True):
            assert_same(segmenter.segment(alone, [prompt])[0], found)
            lone_click = prompt.box is prompt.previous is None and len(prompt.inside) == 1
            assert len(found) == (3 if lone_click and not prompt.outside else 1)
            assert [m.quality for m in found] == sorted((m.quality for m in found), reverse=True)
            for candidate in found:
                assert candidate.pixels.shape == (image.height, image.width)
                assert 0 <= candidate.quality <= 1 and 0 <= candidate.stability <= 1


def by_processor(
    kind: str, model: Any, image: Image, several: bool, **inputs: Any
) -> list[tuple[np.ndarray, float]]:
    """Logits in the image with predicted IoUs, by transformers' own processor; best first."""
    processor = models.processor(kind)
    given = processor(images=image.pixels, return_tensors="pt", **inputs)
    sizes = [given.pop("original_sizes")]
    if kind != "sam2":
        sizes.append(given.pop("reshaped_input_sizes"))
    floats = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    with torch.inference_mode():
        output = model(**floats, multimask_output=several)
    (masks,) = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)
    order = np.argsort(-output.iou_scores[0, 0].numpy(), kind="stable")
    return [(masks[0, row].numpy(), float(output.iou_scores[0, 0, row])) for row in order]


@pytest.mark.parametrize("size", [(100, 70), (40, 90), (64, 64), (200, 130)])
@pytest.mark.parametrize("kind", models.KINDS)
def test_masks_are_those_of_transformers_own_processor(
    folders: dict[str, Path], segmenters: dict[str, Segmenter], kind: str, size: tuple[int, int]
) -> None:
    model = AutoModelForMaskGeneration.from_pretrained(folders[kind]).eval()
    image, segmenter = models.image(*size), segmenters[kind]
    (encoding,) = segmenter.encode([image])
    box = [size[0] * 0.2, size[1] * 0.1, size[0] * 0.8, size[1] * 0.7]
    click, beside = [size[0] / 2, size[1] / 2], [size[0] * 0.1, size[1] * 0.1]
    cases: list[tuple[SegmentationPrompt, dict[str, Any]]] = [
        (SegmentationPrompt(box=tuple(box)), {"input_boxes": [[box]]}),
        (
            SegmentationPrompt(inside=[tuple(click)]),
            {"input_points": [[[click]]], "input_labels": [[[1]]]},
        ),
        (
            SegmentationPrompt(inside=[tuple(click)], outside=[tuple(beside)], box=tuple(box)),
            {
                "input_boxes": [[box]],
                "input_points": [[[click, beside]]],
                "input_labels": [[[1, 0]]],
            },
        ),
    ]
    for prompt, inputs in cases:
        ours = segmenter.segment(encoding, [prompt])[0]
        theirs = by_processor(kind, model, image, len(ours) == 3, **inputs)
        for candidate, (logits, quality) in zip(ours, theirs, strict=True):
            assert candidate.quality == pytest.approx(np.clip(quality, 0, 1), abs=1e-4)
            different = candidate.pixels != (logits > 0)
            assert np.abs(logits[different]).max(initial=0) < 1e-2
            assert different.mean() < 0.005


def test_one_call_of_the_decoder_answers_many_boxes(segmenters: dict[str, Segmenter]) -> None:
    segmenter: Any = segmenters["sam"]
    (encoding,) = segmenter.encode([models.image(100, 70)])
    calls: list[int] = []
    decoder = segmenter._model.mask_decoder
    hook = decoder.register_forward_hook(lambda _, given, output: calls.append(len(output[0][0])))
    try:
        boxes = [SegmentationPrompt(box=(x, 5, x + 30, 60)) for x in range(12)]
        assert len(segmenter.segment(encoding, boxes)) == 12
    finally:
        hook.remove()
    assert calls == [12]


def test_an_encoding_keeps_nothing_of_the_others(segmenters: dict[str, Segmenter]) -> None:
    for segmenter in segmenters.values():
        encodings = segmenter.encode([models.image(30, 40, seed) for seed in range(3)])
        for tensor in encodings[1].features:  # type: ignore[attr-defined]
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_an_earlier_mask_changes_the_answer(segmenters: dict[str, Segmenter]) -> None:
    image = models.image(100, 70)
    previous = np.zeros((70, 100), bool)
    previous[10:60, 20:80] = True
    for segmenter in segmenters.values():
        (encoding,) = segmenter.encode([image])
        asked = [
            SegmentationPrompt(box=(10, 10, 90, 60), previous=mask)
            for mask in (None, previous, ~previous)
        ]
        qualities = [found[0].quality for found in segmenter.segment(encoding, asked)]
        assert len(set(qualities)) == 3


def test_hostile_prompts_are_refused_and_none_is_fine(segmenters: dict[str, Segmenter]) -> None:
    segmenter = segmenters["sam2"]
    (encoding,) = segmenter.encode([models.image(30, 40)])
    assert segmenter.segment(encoding, []) == [] and segmenter.encode([]) == []
    with pytest.raises(InvalidInput, match="outside of the image"):
        segmenter.segment(encoding, [SegmentationPrompt(inside=[(31, 5)])])


def test_name_and_digest_tell_the_checkpoint(
    folders: dict[str, Path], segmenters: dict[str, Segmenter]
) -> None:
    assert segmenters["sam"].name == folders["sam"].name
    assert len({segmenter.digest for segmenter in segmenters.values()}) == 3
    again = load_segmenter(str(folders["sam"]), OPTIONS)  # a folder without a name before it
    assert again is not None and again.digest == segmenters["sam"].digest


def test_a_checkpoint_of_the_video_model_holds_the_images(
    folders: dict[str, Path], segmenters: dict[str, Segmenter], tmp_path: Path
) -> None:
    """As SAM 2.1 is published."""
    folder = tmp_path / "video"
    shutil.copytree(folders["sam2"], folder)
    edit(folder / "config.json", model_type="sam2_video", architectures=["Sam2VideoModel"])
    segmenter, image = sam.load(str(folder), OPTIONS), models.image(100, 70)
    asked = prompts(100, 70)
    for one, other in zip(
        segmenter.segment(segmenter.encode([image])[0], asked),
        segmenters["sam2"].segment(segmenters["sam2"].encode([image])[0], asked),
        strict=True,
    ):
        assert_same(one, other)


def edit(file: Path, **changed: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changed))


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(folders["sam"], tmp_path / "copy"))


@pytest.mark.parametrize("as_masks", [False, True])
def test_a_window_that_the_encoding_does_not_hold_is_the_whole_of_it(
    folders: dict[str, Path], tmp_path: Path, as_masks: bool
) -> None:
    copy = Path(shutil.copytree(folders["sam2"], tmp_path / "copy"))
    edit(copy / "config.json", prompt_window=99, prompts_as_masks=as_masks)
    segmenter = sam.load(str(copy), OPTIONS)
    (encoding,) = segmenter.encode([models.image(100, 70)])
    ((found,),) = segmenter.segment(encoding, [SegmentationPrompt(box=(10, 10, 60, 50))])
    assert found.pixels.shape == (70, 100) and found.pixels.any()


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", model_type="bert")
    with pytest.raises(BadSetting, match="'copy' is a 'bert' model; expected one of sam, sam_hq"):
        sam.load(str(folder), OPTIONS)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(NotFound, match="holds no safetensors weights"):
        sam.load(str(folder), OPTIONS)


def test_a_checkpoint_without_some_weights_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotFound, match=r"lacks 1 weights .*iou_token"):
        sam.load(str(folder), OPTIONS)


@pytest.mark.parametrize("changed", [{"size": {"longest_edge": 96}}, {"pad_size": None}])
def test_a_processor_of_another_size_is_refused(changed: dict[str, Any]) -> None:
    processor = models.processor("sam").image_processor
    for name, value in changed.items():
        setattr(processor, name, value)
    with pytest.raises(BadSetting, match="the model takes images of 64 × 64"):
        sam.read_pixels(processor, models.SIDE)


def test_the_embedded_segmenter_says_that_it_is_a_demo(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders["sam2"], tmp_path / "segmenter")
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path)
    segmenter = load_segmenter("demo", OPTIONS)
    assert segmenter is not None and segmenter.name == "demo-segmenter"
    (encoding,) = segmenter.encode([models.image(40, 30)])
    ((found,),) = segmenter.segment(encoding, [SegmentationPrompt(box=(5, 5, 30, 25))])
    assert found.pixels.shape == (30, 40)
