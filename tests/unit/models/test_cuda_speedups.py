"""What a Grounding DINO is on a GPU, on a CPU: Triton interpreted, graphs scripted."""

import grounding_dino_models as models
import numpy as np
import pytest
import torch
import triton_interpreter

from secondlook.config.settings import ModelSettings
from secondlook.models import cpu_speedups, cuda_speedups, grounding_dino
from secondlook.models.cuda_graphs import Graph, GraphedCalls, Run
from secondlook.models.grounding_dino import GroundingDinoProposer, read_pixel_settings
from secondlook.models.image_processor import resize_pixels
from secondlook.models.loading import choose_placement

PHRASES = ["person", "hot dog", "red car"]


class Recorder:
    """Replays by another run; counts recordings."""

    recorded = 0

    def record(self, run: Run, inputs: tuple[torch.Tensor, ...]) -> Graph:
        """See ``GraphRecorder``."""
        del inputs
        self.recorded += 1
        return Graph(run, 0)

    def drop_memory(self) -> None:
        """See ``GraphRecorder``."""


def proposer(model: torch.nn.Module, device: str) -> GroundingDinoProposer:
    """Of the small models' processor."""
    processor = models.processor(64, 96)
    return GroundingDinoProposer(
        model,
        processor.tokenizer,
        read_pixel_settings(processor.image_processor, least_cells=40),
        name="small",
        digest="0",
        placement=choose_placement(ModelSettings(device=device)),
    )


@pytest.mark.parametrize("device", triton_interpreter.DEVICES)
@pytest.mark.parametrize(
    ("kind", "backbone"), [("grounding-dino", "swin"), ("mm-grounding-dino", "resnet")]
)
def test_the_prepared_model_finds_what_the_one_of_the_cpu_finds(
    kind: str, backbone: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton_interpreter.use(monkeypatch, device)
    images = [models.image(96, 64)]
    # The interpreter is slow, and slower with each head and point.
    sizes = {"heads": 2, "encoder_n_points": 1, "decoder_n_points": 1}
    expected = proposer(models.model(kind, backbone, **sizes), "cpu").propose(images, PHRASES, 0)
    model = models.model(kind, backbone, **sizes)
    if device == "cpu":  # on a GPU the proposer does so
        cuda_speedups.replace_deformable_attention(model)
        assert cuda_speedups.replace_deformable_attention(model) == 0
        monkeypatch.setattr(grounding_dino, "replace_for_cache", lambda _: 0)
    fast = proposer(model, device)
    recorder = Recorder()
    if device == "cpu":
        fast._run = GraphedCalls(fast._run, recorder, max_bytes=0)
    found = [fast.propose(images, PHRASES, 0) for _ in range(2)]
    assert recorder.recorded == (1 if device == "cpu" else 0)
    for proposals in found:
        for one, other in zip(proposals, expected, strict=True):
            assert len(one) == len(other) == 40
            np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_weights_of_products_are_stored_as_autocast_would_convert_them() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)).requires_grad_(False)
    given = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(given)
        cpu_speedups.cast_weights(model, torch.bfloat16)
        found = model(given)
    assert model[0].weight.dtype == torch.bfloat16 and model[1].weight.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("device", triton_interpreter.DEVICES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_resized_on_the_device_differ_by_one_at_most(
    interpolation: str, device: str
) -> None:
    image = models.image(171, 133).pixels
    for shape in ((64, 82), (200, 257), image.shape[:2], (64, image.shape[1])):
        found = cuda_speedups.upload_resized(image, shape, interpolation, torch.device(device))
        expected = resize_pixels(image, shape, interpolation).float()
        off = (found.float().cpu() - expected).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 0.005
