"""What a torch student tells beside its detections."""

import numpy as np
import torch
from tiny_students import PIXELS, awake, deimv2, drawn

from secondlook.core.boxes import clip
from secondlook.training.predict import edge_bins, predict_images, to_pixel_values


def test_the_bins_of_a_detection_are_those_that_made_its_box() -> None:
    model, image, size = awake(deimv2()).eval(), drawn(0), (200, 100)
    assert image.shape == (PIXELS[1], PIXELS[0], 3)
    (found,) = predict_images(model, [image], [size], floor=0.0)
    bins, distances = edge_bins(model, image, found, size)

    assert len(found) > 5 and bins.shape == (len(found), 4, len(distances))
    np.testing.assert_allclose(bins.sum(axis=2), 1, atol=1e-5)
    assert np.ptp(bins.argmax(axis=2)) > 0

    with torch.inference_mode():
        values = to_pixel_values(torch.from_numpy(image[None].copy()).permute(0, 3, 1, 2))
        first = model(pixel_values=values).initial_reference_points[0, -1].numpy()
    centre, sides = first[:, None, :2], first[:, None, 2:]
    left_top = centre - sides / 2 - (bins @ distances)[None, :, :2] * sides
    right_bottom = centre + sides / 2 + (bins @ distances)[None, :, 2:] * sides
    moved = np.concatenate([left_top, right_bottom], axis=2) * np.array([*size, *size])
    off = np.abs(clip(moved.astype(np.float32), *size) - found.boxes).max(axis=2).min(axis=0)
    assert off.max() < 0.1
