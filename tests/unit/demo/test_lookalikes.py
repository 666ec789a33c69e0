"""Clips of one target among its look-alikes."""

import numpy as np
import pytest

from secondlook.demo.lookalikes import DIMMEST, PERIOD, lookalike_frames, target_noun


@pytest.mark.parametrize("seed", [0, 9])
def test_targets_are_things_of_their_frame_among_others_that_look_alike(seed):
    frames = [*lookalike_frames(seed, 6, 192)]
    again = [*lookalike_frames(seed, 2, 192)]
    assert all((a.scene.image == b.scene.image).all() for a, b in zip(again, frames, strict=False))
    for frame in frames:
        height, width = frame.scene.image.shape[:2]
        assert (width, height % 2) == (192, 0)
        alike = [thing.box for thing in frame.scene.things if thing.noun == target_noun(seed)]
        assert set(frame.targets) <= set(alike)
        assert len(frame.targets) + frame.lookalikes == len(alike)
    assert any(frame.targets for frame in frames) and any(frame.lookalikes for frame in frames)


def test_the_light_changes():
    frames = [*lookalike_frames(2, 1 + PERIOD // 2, 64)][:: PERIOD // 6]
    means = [float(np.mean(frame.scene.image)) for frame in frames]
    assert DIMMEST < min(means) / max(means) < 0.9
    with pytest.raises(ValueError, match="64 pixels"):
        next(lookalike_frames(0, 1, 32))
