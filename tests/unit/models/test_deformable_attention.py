"""The compiled loop of deformable attention against transformers' own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grounding_dino_models as models
import pytest
import torch

from secondlook.models import numba_attention
from secondlook.models.cpu_speedups import replace_modules
from secondlook.models.numba_attention import NumbaDeformableAttention, sample_and_sum

SHAPES = ([(7, 9)], [(12, 16), (6, 8), (3, 4), (2, 2)], [(1, 30), (1, 1), (5, 2), (1, 2)])


def original(levels: int) -> torch.nn.Module:
    """transformers' module with random weights and offsets that also lead outside."""
    attention = models.model().model.encoder.layers[0].deformable_layer.self_attn
    kind = type(attention)
    config = models.model().config
    config.num_feature_levels = levels
    made = kind(config, num_heads=4, n_points=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
        made.sampling_offsets.bias.normal_(0, 4)
    return made.eval()


def inputs(shapes: list[tuple[int, int]], batch: int, coordinates: int) -> dict[str, Any]:
    """Random ones, some of which point outside; one of them far."""
    cells, queries = sum(height * width for height, width in shapes), 11
    reference = torch.rand(batch, queries, len(shapes), coordinates) * 1.4 - 0.2
    reference[:, 0] = 1e9
    return {
        "hidden_states": torch.randn(batch, queries, 64),
        "encoder_hidden_states": torch.randn(batch, cells, 64),
        "position_embeddings": torch.randn(batch, queries, 64),
        "attention_mask": torch.rand(batch, cells) > 0.2,
        "reference_points": reference,
        "spatial_shapes": torch.tensor(shapes),
        "spatial_shapes_list": shapes,
    }


def replaced(model: torch.nn.Module) -> int:
    return replace_modules(model, "MultiscaleDeformableAttention", NumbaDeformableAttention)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_gives_what_the_original_gives(
    shapes: list[tuple[int, int]], coordinates: int, batch: int
) -> None:
    torch.manual_seed(0)
    slow = original(len(shapes))
    quick = NumbaDeformableAttention(slow)
    given = inputs(shapes, batch, coordinates)
    with torch.no_grad():
        expected, _ = slow(**given)
        found, _ = quick(**given)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_bfloat16_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    slow = original(len(SHAPES[1]))
    quick = NumbaDeformableAttention(slow)
    given = inputs(SHAPES[1], batch=1, coordinates=2)
    with torch.inference_mode():
        expected, _ = quick(**given)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = quick(**given)
    assert found.dtype == torch.bfloat16
    # Offsets of some four cells have steps of 1/32 cell in bfloat16.
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("place", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_a_place_that_is_none_reads_no_cell_of_another_image(place: float) -> None:
    shapes, cells = [(2, 3), (1, 2)], 8
    value = torch.ones(1, cells, 1, 4)
    joint = torch.zeros(1, 5, 3 * len(shapes))
    joint[..., : 2 * len(shapes)] = place
    found = sample_and_sum(value, joint, torch.full((1, 5, len(shapes), 2), 0.5), shapes, 1)
    assert not found.nan_to_num(0.0).any()


def test_too_many_cells_to_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_attention, "MAX_CELLS", 7)
    with pytest.raises(ValueError, match="at most 7 cells, got 8"):
        sample_and_sum(
            torch.ones(1, 8, 1, 4), torch.zeros(1, 1, 3), torch.ones(1, 1, 1, 2), [(2, 4)], 1
        )


def test_cells_that_are_not_those_of_the_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"levels \[\(2, 4\)\], got 7"):
        sample_and_sum(
            torch.ones(1, 7, 1, 4), torch.zeros(1, 1, 3), torch.ones(1, 1, 1, 2), [(2, 4)], 1
        )


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_that_come_at_once_get_what_one_gets(layer: str) -> None:
    """A work queue, numba's threads where there are no other, ends the process of two callers."""
    assert run(CALLED_AT_ONCE, NUMBA_THREADING_LAYER=layer) == f"{layer}\n"


CALLED_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numba, torch
from secondlook.models.numba_attention import sample_and_sum
torch.manual_seed(0)
value, reference = torch.randn(1, 100, 4, 8), torch.rand(1, 2000, 1, 2)
joints = [torch.randn(1, 2000, 48) for _ in range(40)]
result = lambda joint: sample_and_sum(value, joint, reference, [(10, 10)], 4)
alone = [result(joint) for joint in joints]
with ThreadPoolExecutor(8) as pool:
    for found, expected in zip(pool.map(result, joints), alone, strict=True):
        assert torch.equal(found, expected)
print(numba.threading_layer())
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_where_its_machine_code_cannot_be_kept(tmp_path: Path) -> None:
    """As in an image whose files are root's, run by a user without a home."""
    package = tmp_path / "package"
    package.mkdir()
    source = package / "attention_copy.py"
    shutil.copy(numba_attention.__file__, source)
    (package / "__pycache__").touch()  # a file: nothing can be written into it
    (tmp_path / "home").touch()
    home = str(tmp_path / "home")
    call = "import attention_copy as a, torch; print(a.sample_and_sum(torch.ones(1, 1, 1, 1), "
    call += "torch.zeros(1, 1, 3), torch.full((1, 1, 1, 2), 0.5), [(1, 1)], 1).item())"
    assert run(call, PYTHONPATH=str(package), HOME=home, XDG_CACHE_HOME=home) == "1.0\n"


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_one_in_a_model_is_replaced(kind: str) -> None:
    model = models.model(kind)
    inputs = {
        "pixel_values": torch.randn(2, 3, 96, 64),
        "input_ids": torch.tensor([[101, 1031, 1012, 102]] * 2),
    }
    with torch.no_grad():
        before = model(**inputs)
        assert replaced(model) == 3  # one encoder layer, two decoder layers
        after = model(**inputs)
    assert replaced(model) == 0
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes, atol=1e-5, rtol=1e-4)
