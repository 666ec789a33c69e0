"""A student in torch, opened from a folder: what it finds, and how it spreads the edges."""

from pathlib import Path

import numpy as np
import pytest
from tiny_students import CLASSES, PIXELS, d_fine

from secondlook.training.model import save_student
from secondlook.training.progress import TORCH
from secondlook.training.torch_student import TorchStudent
from secondlook_client.errors import NotFound


def test_a_student_is_opened_finds_boxes_and_tells_their_edges(tmp_path: Path) -> None:
    names = dict(enumerate(CLASSES))
    save_student(d_fine(id2label=names, student_input_size=list(PIXELS)), tmp_path / TORCH)
    student = TorchStudent.open(str(tmp_path))
    assert student.classes == CLASSES and student.name.startswith(f"student {tmp_path.name}@")
    image = np.random.default_rng(1).integers(0, 255, (50, 70, 3), np.uint8)
    found, same = student.detect([image, image], floor=0.0)
    assert len(found) > 2 and found.boxes[:, [0, 2]].max() <= 70 and found.boxes.max() > 1
    assert np.allclose(found.boxes, same.boxes, atol=1e-3)
    assert 0 < student.expected_change(image) == pytest.approx(student.expected_change(image))
    bins, distances = student.edge_bins(image, found.take(np.arange(2)))
    assert bins.shape == (2, 4, len(distances)) and np.allclose(bins.sum(axis=2), 1, atol=1e-5)


def test_a_folder_without_weights_of_torch_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no model.safetensors; give the --out folder"):
        TorchStudent.open(str(tmp_path))
