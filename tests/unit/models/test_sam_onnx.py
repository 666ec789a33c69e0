"""A pair of ONNX files as segmenter: what it is fed, which masks are taken, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sam_graphs import QUALITIES, SIDE, write_decoder, write_encoder, write_pair

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.detector.trial import TrialLimits
from secondlook.labeling.segmenter import MaskCandidate, SegmentationPrompt
from secondlook.models import sam_onnx
from secondlook.models.registry import load_segmenter
from secondlook.models.sam_onnx import SamOnnxSegmenter, load
from secondlook_client.errors import BadSetting, Damaged, InvalidInput, NotFound

ONE_THREAD = ModelSettings(threads=1)


@pytest.fixture(autouse=True)
def _untried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial in a child process takes a second; only the tests about it have one."""
    if "tried" not in request.fixturenames:
        monkeypatch.setattr(sam_onnx, "_try", lambda encoder, decoder, side: None)


@pytest.fixture
def tried() -> None:
    """The trial runs."""


def image(width: int = 128, height: int = 64) -> Image:
    """Dark on the left, bright on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = (200, 100, 50)
    return Image(pixels, "0" * 64, "a.png")


def masks(segmenter: SamOnnxSegmenter, **prompt: Any) -> tuple[MaskCandidate, ...]:
    (encoding,) = segmenter.encode([image()])
    (found,) = segmenter.segment(encoding, [SegmentationPrompt(**prompt)])
    return found


def test_a_click_is_answered_where_it_is(tmp_path: Path) -> None:
    segmenter = load_segmenter(f"sam-onnx:{write_pair(tmp_path)}", ONE_THREAD)
    assert isinstance(segmenter, SamOnnxSegmenter) and segmenter.name == "tiny"
    (found,) = masks(segmenter, inside=[(90, 40)])
    # The image is twice as wide as the input: a hill of 14 pixels there is one of 28 here.
    rows, columns = np.nonzero(found.pixels)
    assert (columns.mean(), rows.mean()) == pytest.approx((90, 38), abs=2)
    assert columns.max() - columns.min() == pytest.approx(2 * 0.8 * 28, abs=4)
    assert found.quality == pytest.approx(QUALITIES[0])
    assert 0.5 < found.stability < 1


def test_clicks_outside_boxes_and_earlier_masks_reach_the_decoder(tmp_path: Path) -> None:
    segmenter = load(str(write_pair(tmp_path)), ONE_THREAD)
    (two,) = masks(segmenter, inside=[(30, 30), (100, 30)])
    assert two.pixels[30, 30] and two.pixels[30, 100]
    (less,) = masks(segmenter, inside=[(30, 30), (100, 30)], outside=[(100, 30)])
    assert less.pixels[30, 30] and not less.pixels[30, 100]
    (box,) = masks(segmenter, box=(20, 10, 110, 60))
    assert box.pixels[10, 20] and box.pixels[58, 108] and not box.pixels[58, 20]
    previous = np.zeros((64, 128), bool)
    previous[:, :32] = True
    (mended,) = masks(segmenter, inside=[(100, 30)], previous=previous)
    assert mended.pixels[5:60, :30].all() and not mended.pixels[30, 64]


@pytest.mark.parametrize(
    ("count", "prompt", "expected"),
    [
        (1, {"inside": [(9, 9)]}, [0.6]),
        (3, {"inside": [(9, 9)]}, [0.9, 0.6, 0.3]),
        (4, {"inside": [(9, 9)]}, [0.9, 0.7, 0.3]),
        (1, {"box": (0, 0, 9, 9)}, [0.6]),
        (3, {"box": (0, 0, 9, 9)}, [0.9]),
        (4, {"box": (0, 0, 9, 9)}, [0.6]),
        (4, {"inside": [(9, 9)], "outside": [(20, 20)]}, [0.6]),
    ],
)
def test_a_lone_click_gets_the_masks_for_ambiguous_prompts(
    tmp_path: Path, count: int, prompt: dict[str, Any], expected: list[float]
) -> None:
    found = masks(load(str(write_pair(tmp_path, count)), ONE_THREAD), **prompt)
    assert [candidate.quality for candidate in found] == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 3, SIDE, SIDE), (1, SIDE, SIDE, 3)])
def test_pixels_are_normalised_and_padded_with_0(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_pair(tmp_path)
    write_encoder(tmp_path / "tiny_encoder.onnx", shape=shape)
    shown = image()
    usual, raw = (load(f"{tmp_path}{more}", ONE_THREAD) for more in ("", "?mean=0&std=1"))
    # (1, C, 4, 4), each a mean: half of the columns are bright, and half of the rows are padding.
    features: Any = raw.encode([shown])[0].features
    assert features[0, 0] == pytest.approx(np.outer([1, 1, 0, 0], [0, 0, 200, 200]), abs=2)
    features = usual.encode([shown])[0].features
    assert features[0, 1, 0, 3] == pytest.approx((100 - 116.28) / 57.12, abs=1e-4)
    assert features[0, 1, 3, 3] == 0
    assert usual.digest != raw.digest


def test_images_of_every_shape(tmp_path: Path) -> None:
    segmenter = load(str(write_pair(tmp_path)), ONE_THREAD)
    for width, height in [(1, 1), (500, 2), (3, 400), (64, 64)]:
        (encoding,) = segmenter.encode([image(width, height)])
        box = (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height)
        ((found,),) = segmenter.segment(encoding, [SegmentationPrompt(box=box)])
        assert found.pixels.shape == (height, width)
    with pytest.raises(InvalidInput, match="outside of the image"):
        segmenter.segment(encoding, [SegmentationPrompt(inside=[(65, 2)])])


def test_two_files_or_a_folder_with_both(tmp_path: Path) -> None:
    write_pair(tmp_path)
    pair = f"{tmp_path}/tiny_encoder.onnx, {tmp_path}/tiny_decoder.onnx"
    assert load(pair, ONE_THREAD).digest == load(str(tmp_path), ONE_THREAD).digest
    with pytest.raises(NotFound, match="is one file; give sam-onnx:ENCODER"):
        load(f"{tmp_path}/tiny_encoder.onnx", ONE_THREAD)
    with pytest.raises(NotFound, match=r"there is no file 'absent\.onnx'"):
        load(f"{tmp_path}/tiny_encoder.onnx,absent.onnx", ONE_THREAD)
    write_encoder(tmp_path / "other_encoder.onnx")
    with pytest.raises(NotFound, match=r"holds no pair .*other_encoder\.onnx"):
        load(str(tmp_path), ONE_THREAD)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"orig_im_size": "how_large"}, "sizes that depend on what an image shows"),
        ({"orig_im_size": "", "point_labels": "orig_im_size"}, "expected an encoder of images"),
    ],
)
def test_a_decoder_whose_inputs_mean_something_else(
    tmp_path: Path, names: dict[str, str], said: str
) -> None:
    write_pair(tmp_path)
    write_decoder(tmp_path / "tiny_decoder.onnx", **names)
    with pytest.raises((Damaged, BadSetting), match=said):
        load(str(tmp_path), ONE_THREAD)


def test_inputs_are_found_by_their_shapes(tmp_path: Path) -> None:
    write_pair(tmp_path)
    names = {"point_coords": "xy", "point_labels": "kinds", "mask_input": "m", "orig_im_size": ""}
    write_decoder(tmp_path / "tiny_decoder.onnx", **names)
    (found,) = masks(load(str(tmp_path), ONE_THREAD), inside=[(90, 40)])
    assert found.pixels[40, 90] and not found.pixels[40, 20]


def test_files_in_the_wrong_order_and_of_other_models(tmp_path: Path) -> None:
    write_pair(tmp_path)
    swapped = f"{tmp_path}/tiny_decoder.onnx,{tmp_path}/tiny_encoder.onnx"
    with pytest.raises((BadSetting, Damaged), match=r"the encoder takes|sizes that depend"):
        load(swapped, ONE_THREAD)
    twice = f"{tmp_path}/tiny_encoder.onnx,{tmp_path}/tiny_encoder.onnx"
    with pytest.raises(BadSetting, match="the decoder takes image"):
        load(twice, ONE_THREAD)
    (tmp_path / "tiny_decoder.onnx").write_bytes(b"no model")
    with pytest.raises(Damaged, match="no ONNX file"):
        load(str(tmp_path), ONE_THREAD)


def test_a_pair_that_does_not_belong_together(tmp_path: Path, tried: None) -> None:
    write_pair(tmp_path)
    write_encoder(tmp_path / "tiny_encoder.onnx", channels=9)
    with pytest.raises(BadSetting, match=r"gives \(1, 9, 4, 4\), and the decoder takes \(1, 6"):
        load(str(tmp_path), ONE_THREAD)


def test_a_pair_is_tried_before_it_is_opened(
    tmp_path: Path, tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path)
    assert load(str(tmp_path), ONE_THREAD).name == "tiny"
    monkeypatch.setattr(sam_onnx, "TRIAL", TrialLimits(image_s=0))
    with pytest.raises(Damaged, match="the encoder takes"):
        load(str(tmp_path), ONE_THREAD)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((2, 3, SIDE, SIDE), "", "the encoder takes image"),
        ((1, 3, SIDE, 32), "", "the encoder takes image"),
        ((1, 3, "h", "w"), "?size=9000", "expected size from 32 to 2048"),
        ((1, 3, SIDE, SIDE), "?size=96", "leave out [?]size="),
        ((1, 3, SIDE, SIDE), "?mean=a", "expected mean to be one number or three"),
        ((1, 3, SIDE, SIDE), "?depth=3", "'depth' .* known here: size, mean, std"),
    ],
)
def test_settings_and_inputs_that_do_not_fit(
    tmp_path: Path, shape: tuple[Any, ...], options: str, said: str
) -> None:
    write_pair(tmp_path)
    write_encoder(tmp_path / "tiny_encoder.onnx", shape=shape)
    with pytest.raises(BadSetting, match=said):
        load(f"{tmp_path}{options}", ONE_THREAD)


def test_an_open_input_has_the_size_that_is_given(tmp_path: Path) -> None:
    write_pair(tmp_path)
    write_encoder(tmp_path / "tiny_encoder.onnx", shape=(1, 3, "h", "w"))
    segmenter = load(f"{tmp_path}?size={SIDE}", ONE_THREAD)
    assert masks(segmenter, inside=[(90, 40)])[0].pixels[40, 90]
    other = load(f"{tmp_path}?size=128", ONE_THREAD)
    with pytest.raises(Damaged, match="they do not belong together"):
        other.encode([image()])
