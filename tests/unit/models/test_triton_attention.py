"""The Triton kernel of deformable attention against transformers' own, interpreted on a CPU."""

from pathlib import Path
from typing import Any

import grounding_dino_models as models
import pytest
import torch
import triton
import triton_interpreter
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from secondlook.models.triton_attention import TritonDeformableAttention, _sample_and_sum

LEVELS = [(8, 10), (1, 1), (2, 5)]
HEADS = 2


def original(width: int) -> torch.nn.Module:
    """transformers' module with random weights and offsets that also lead outside."""
    kind = type(models.model().model.encoder.layers[0].deformable_layer.self_attn)
    config = models.model().config
    config.d_model, config.num_feature_levels = width, len(LEVELS)
    made = kind(config, num_heads=HEADS, n_points=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
        made.sampling_offsets.bias.normal_(0, 4)
    return made.eval()


def inputs(batch: int, width: int, coordinates: int, device: str) -> dict[str, Any]:
    """Random ones; one query points far outside."""
    shapes = torch.tensor(LEVELS)
    cells, queries = shapes.prod(1), 35
    reference = torch.rand(batch, queries, len(LEVELS), coordinates) * 1.4 - 0.2
    reference[:, 0] = 1e9
    tensors = {
        "hidden_states": torch.randn(batch, queries, width),
        "encoder_hidden_states": torch.randn(batch, int(cells.sum()), width),
        "position_embeddings": torch.randn(batch, queries, width),
        "attention_mask": torch.rand(batch, int(cells.sum())) > 0.2,
        "reference_points": reference,
        "spatial_shapes": shapes,
        "level_start_index": cells.cumsum(0) - cells,
    }
    return {name: value.to(device) for name, value in tensors.items()}


@pytest.mark.parametrize("device", triton_interpreter.DEVICES)
@pytest.mark.parametrize(
    ("coordinates", "batch", "width", "block"),
    [(2, 2, 32, 64), (4, 1, 24, 32)],  # 35 queries are no whole number of blocks, 12 of channels
)
def test_it_gives_what_the_original_gives(
    coordinates: int,
    batch: int,
    width: int,
    block: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton_interpreter.use(monkeypatch, device, block)
    torch.manual_seed(0)
    slow = original(width).to(device)
    given = inputs(batch, width, coordinates, device)
    with torch.inference_mode():
        expected, _ = slow(**given, spatial_shapes_list=LEVELS)
        found, _ = TritonDeformableAttention(slow)(**given)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("device", triton_interpreter.DEVICES)
def test_bfloat16_is_summed_in_float32(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    triton_interpreter.use(monkeypatch, device)
    torch.manual_seed(0)
    slow = original(32).to(device)
    given = inputs(1, 32, 2, device)
    quick = TritonDeformableAttention(slow)
    with torch.inference_mode():
        expected, _ = quick(**given)
        with torch.autocast(device, torch.bfloat16):
            found, _ = quick(**given)
    assert found.dtype == torch.bfloat16
    # Offsets of some four cells have steps of 1/32 cell in bfloat16.
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_it_compiles_for_hopper_and_reads_sixteen_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"heads": 8, "levels": 4, "points": 4, "channels": 32, "coordinates": 4}
    sizes |= {"padded_channels": 32, "block": 32}
    names = _sample_and_sum.arg_names
    types = ["*bf16", "*bf16", "*fp32", "*i64", "*i64", "*bf16", "i32", "i32"]
    source = ASTSource(
        _sample_and_sum,
        dict(zip(names, types + ["constexpr"] * len(sizes), strict=True)),
        {(names.index(name),): size for name, size in sizes.items()},
        {(place,): [["tt.divisibility", 16]] for place in range(6)},  # as PyTorch allocates
    )
    options = {"num_warps": 4, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.asm["cubin"]
    assert made.asm["ptx"].count("ld.global.v4.b32") == 16  # a level: four points, four corners
