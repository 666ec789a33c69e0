"""Enlarging logits only where a mask can be gives what enlarging all of them gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.models.mask_logits import (
    PROMPT_LOGIT,
    InputFrame,
    MaskUpsampler,
    logits_of,
    longest_side_frame,
)
from secondlook_client.errors import Damaged

SIDE, GRID = 64, 16
SIDES = st.integers(1, 150)


def enlarged(logits: np.ndarray, frame: InputFrame) -> np.ndarray:
    """As the authors' ``postprocess_masks``, or SAM 2's, over the whole image."""
    tensor = torch.from_numpy(logits)[None]
    options = {"mode": "bilinear", "align_corners": False}
    if not frame.enlarged_once:
        tensor = F.interpolate(tensor, (frame.side, frame.side), **options)
        tensor = tensor[..., : frame.resized[1], : frame.resized[0]]
    return F.interpolate(tensor, frame.image[::-1], **options)[0].numpy()


@given(SIDES, SIDES, st.booleans(), st.integers(0, 2**32), st.floats(0.0, 0.9))
def test_masks_are_those_of_the_whole_image(
    width: int, height: int, once: bool, seed: int, empty: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (2, GRID, GRID)).astype(np.float32)
    logits[generator.random(logits.shape) < empty] = -9
    frame = longest_side_frame(width, height, SIDE)
    if once:
        frame = InputFrame((width, height), (SIDE, SIDE), SIDE, enlarged_once=True)
    expected = enlarged(logits, frame)
    found = MaskUpsampler(frame, GRID).candidates(logits, np.array([0.9, 0.4]))
    for candidate, values in zip(found, expected, strict=True):
        different = candidate.pixels != (values > 0)
        assert np.abs(values[different]).max(initial=0) < 1e-4
        certain, possible = (values > 1).sum(), (values > -1).sum()
        assert candidate.stability == pytest.approx(certain / max(possible, 1), abs=0.01)
        assert 0 <= candidate.stability <= 1


def test_the_best_predicted_quality_comes_first() -> None:
    logits = np.stack([np.full((GRID, GRID), value, np.float32) for value in (-5, 5, 0.5)])
    upsampler = MaskUpsampler(longest_side_frame(9, 7, SIDE), GRID)
    found = upsampler.candidates(logits, np.array([-0.2, 0.7, 1.3], np.float32))
    assert [candidate.quality for candidate in found] == [1.0, pytest.approx(0.7), 0.0]
    assert [candidate.pixels.mean() for candidate in found] == [1, 1, 0]
    assert [candidate.stability for candidate in found] == [0, 1, 0]
    assert all(candidate.pixels.shape == (7, 9) for candidate in found)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite(wrong: float) -> None:
    upsampler = MaskUpsampler(longest_side_frame(9, 7, SIDE), GRID)
    logits = np.zeros((1, GRID, GRID), np.float32)
    with pytest.raises(Damaged, match="not finite"):
        upsampler.candidates(logits, np.array([wrong]))
    logits[0, 3, 3] = wrong
    with pytest.raises(Damaged, match="not finite"):
        upsampler.candidates(logits, np.array([0.5]))


@given(SIDES, SIDES)
def test_points_stay_in_the_input(width: int, height: int) -> None:
    frame = longest_side_frame(width, height, SIDE)
    corners = frame.to_input(np.array([[0, 0], [width, height]]))
    assert corners[0].tolist() == [0, 0] and corners[1].tolist() == list(frame.resized)
    assert max(frame.resized) == SIDE and min(frame.resized) >= 1


@settings(max_examples=30)
@given(st.integers(8, 80), st.integers(8, 80), st.integers(0, 2**32))
def test_a_mask_survives_as_logits(width: int, height: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    left, top = generator.uniform(0, 0.5, 2)
    mask = np.zeros((height, width), bool)
    mask[int(top * height) : int((top + 0.5) * height), int(left * width) :] = True
    frame = longest_side_frame(width, height, SIDE)
    logits = logits_of(mask, frame, GRID)
    assert logits.shape == (GRID, GRID) and np.abs(logits).max() <= PROMPT_LOGIT * 1.001
    (back,) = MaskUpsampler(frame, GRID).candidates(logits[None], np.array([1.0]))
    # No edge moves by more than a cell.
    inset = max(2, -(-max(width, height) // GRID) + 1)
    assert not (back.pixels & ~_grown(mask, inset)).any()
    assert not (~back.pixels & ~_grown(~mask, inset)).any()


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    tensor = torch.from_numpy(mask).float()[None, None]
    return F.max_pool2d(tensor, 2 * by + 1, 1, by)[0, 0].numpy() > 0


def test_a_mask_as_logits_is_its_share_of_each_cell() -> None:
    mask = np.zeros((32, 64), bool)
    mask[:, :6] = True  # a cell and a half of four pixels
    logits = logits_of(mask, longest_side_frame(64, 32, SIDE), GRID)
    assert logits[0, :4].tolist() == [10, 0, -10, -10]
    assert (logits[8:] == -10).all()  # the padding
