from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_students import PIXELS, awake, d_fine, deimv2, drawn, furthest
from torch import nn

from recipes.student.short_stem import with_short_stem
from secondlook.training.export.inference_graph import InferenceGraph
from secondlook.training.model import load_student, save_student


@pytest.mark.parametrize(
    "make",
    [
        lambda: deimv2(),
        lambda: deimv2(use_gateway=False, share_bbox_head=True),
        lambda: deimv2(lite=False),
        lambda: deimv2(decoder_n_points=[3, 5]),
        lambda: with_short_stem(deimv2(), PIXELS),
        lambda: d_fine(),
        lambda: d_fine(freeze_backbone_batch_norms=True, anchor_image_size=[64, 96]),
    ],
    ids=["deimv2", "no gate", "hybrid", "uneven points", "quickened", "d_fine", "frozen norms"],
)
def test_the_inference_graph_gives_what_the_trained_model_gives(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    save_student(awake(make()), tmp_path)
    images = torch.from_numpy(np.stack([drawn(number) for number in range(3)]))
    with torch.inference_mode():
        said = load_student(tmp_path)(pixel_values=images.permute(0, 3, 1, 2).float() / 255)
        graph = InferenceGraph(load_student(tmp_path), PIXELS).eval()
        scores, boxes = graph(images)
    centre, half = said.pred_boxes[..., :2], said.pred_boxes[..., 2:] / 2
    expected = [
        said.logits.sigmoid().numpy(),
        torch.cat([centre - half, centre + half], dim=-1).numpy(),
    ]
    assert expected[0].std(axis=1).max() > 0.01, "the model sees nothing; the test shows nothing"
    assert furthest(expected, [scores.numpy(), boxes.numpy()]) < 2e-4
