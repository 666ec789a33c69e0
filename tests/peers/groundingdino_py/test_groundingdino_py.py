"""The authors' own code and transformers' class with the same weights: same boxes, same scores.

Random weights in the published Swin-T architecture, since neither hub nor releases can be
reached. All three ways are compared: the package called by hand, our adapter around the package,
and the same file translated for transformers.
"""

from dataclasses import replace
from pathlib import Path

import grounding_dino_models as models
import groundingdino
import numpy as np
import pytest
import torch
from groundingdino.models import build_model
from groundingdino.util.inference import predict
from groundingdino.util.slconfig import SLConfig
from transformers import BertConfig

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Proposals
from secondlook.models import groundingdino_py, original_checkpoint
from secondlook.models.grounding_dino import (
    GroundingDinoProposer,
    PixelSettings,
    preprocess,
    read_pixel_settings,
)
from secondlook.models.loading import choose_placement
from secondlook_client.errors import NotFound

OPTIONS = ModelSettings(device="cpu")
PHRASES = ["person", "hot dog", "man wearing red glasses"]
IMAGES = [models.image(320, 240, 1), models.image(260, 400, 2), models.image(300, 300, 3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``.pth`` that the package wrote, its tokenizer beside it."""
    torch.manual_seed(0)
    tokenizer = models.processor().tokenizer
    config = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
    settings = SLConfig.fromfile(str(config))
    settings.device = "cpu"
    with groundingdino_py.text_encoder(tokenizer, BertConfig(num_hidden_layers=3)):
        model = build_model(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "gamma" in name else 0.02))
        # Scores away from 0 and 1, where a difference would not show.
        model.transformer.decoder.norm.weight.mul_(0.1)
        model.transformer.decoder.norm.bias.zero_()
    path = tmp_path_factory.mktemp("idea") / "groundingdino_swint_random.pth"
    torch.save({"model": model.state_dict()}, path)
    tokenizer.save_pretrained(path.parent)
    return path


@pytest.fixture(scope="module")
def small() -> PixelSettings:
    """The published preprocessing with fewer pixels, to save time."""
    processor = models.processor(240, 400).image_processor
    return read_pixel_settings(processor, least_cells=900)


@pytest.fixture(scope="module")
def package(checkpoint: Path) -> torch.nn.Module:
    """The package's model with those weights and its own way of tokenizing."""
    weights = original_checkpoint.read_weights(checkpoint)
    return groundingdino_py.build(weights, models.processor().tokenizer, "x").eval()


def adapter(network: torch.nn.Module, pixels: PixelSettings) -> GroundingDinoProposer:
    """Our proposer around either network."""
    tokenizer = models.processor().tokenizer
    return GroundingDinoProposer(
        network, tokenizer, pixels, name="x", digest="0", placement=choose_placement(OPTIONS)
    )


@pytest.fixture(scope="module")
def theirs(checkpoint: Path, small: PixelSettings) -> GroundingDinoProposer:
    """Our adapter around the package."""
    weights = original_checkpoint.read_weights(checkpoint)
    model = groundingdino_py.build(weights, models.processor().tokenizer, "x")
    return adapter(groundingdino_py.Network(model), small)


@pytest.fixture(scope="module")
def ours(checkpoint: Path, small: PixelSettings) -> GroundingDinoProposer:
    """Our adapter around transformers' class with the translated weights."""
    return adapter(
        original_checkpoint.build_model(original_checkpoint.read_weights(checkpoint), "x"), small
    )


@pytest.fixture
def authors_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers cut reference points where the authors do.

    The one difference between the two: before its logit is taken, a reference box's coordinate is
    cut to 0.001 … 0.999 there and to 0.00001 … 0.99999 in transformers. It shows where one comes
    that near to an end of its range, as all do that were picked from padding.
    """

    def logit(value: torch.Tensor, eps: float | None = None) -> torch.Tensor:
        assert eps == 1e-5
        low, high = value.clamp(min=1e-3), (1 - value).clamp(min=1e-3)
        return torch.log(low / high)

    monkeypatch.setattr(torch.special, "logit", logit)


def share_found(one: Proposals, other: Proposals) -> float:
    """Share of the boxes of ``one`` that ``other`` has too, within 0.05 pixels and 0.001.

    As sets: queries that score alike come in another order when a sum is rounded differently.
    """
    assert len(one) == len(other) > 0
    offset = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2)
    score = np.abs(one.scores[:, None] - other.scores[None]).max(axis=2)
    return float(((offset < 0.05) & (score < 1e-3)).any(axis=1).mean())


def test_scores_vary(theirs: GroundingDinoProposer) -> None:
    found = theirs.propose(IMAGES[:1], PHRASES, 0.0)[0]
    assert len(found) == 900
    assert found.scores.std() > 0.02
    assert found.boxes.std(axis=0).min() > 5


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.width}x{image.height}")
def test_translated_weights_give_the_packages_boxes(
    theirs: GroundingDinoProposer, ours: GroundingDinoProposer, image: Image
) -> None:
    one = theirs.propose([image], PHRASES, 0.0)[0]
    other = ours.propose([image], PHRASES, 0.0)[0]
    assert share_found(one, other) >= 0.99
    assert share_found(other, one) >= 0.99


def test_our_adapter_gives_what_the_package_gives_by_hand(
    package: torch.nn.Module, theirs: GroundingDinoProposer, small: PixelSettings
) -> None:
    image = IMAGES[0]
    pixels, _ = preprocess([image], small, torch.device("cpu"))
    boxes, scores, _ = predict(package, pixels[0], "hot dog", 0.0, 1.1, device="cpu")
    scale = torch.tensor([image.width, image.height] * 2)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    with torch.no_grad():
        logits = package(pixels, captions=["hot dog."])["pred_logits"][0]
    torch.testing.assert_close(scores, logits.sigmoid().max(1)[0])
    words = logits[:, 1:3].sigmoid().max(1)[0]  # [CLS] hot dog . [SEP]
    by_hand = Proposals((corners * scale).numpy(), words[:, None].numpy())
    assert share_found(by_hand, theirs.propose([image], ["hot dog"], 0.0)[0]) >= 0.99


def test_padding_is_treated_alike(
    checkpoint: Path, small: PixelSettings, authors_epsilon: None
) -> None:
    padded = replace(small, multiple=64)
    image = models.image(310, 240, 4)
    weights = original_checkpoint.read_weights(checkpoint)
    package = groundingdino_py.build(weights, models.processor().tokenizer, "x")
    one = adapter(groundingdino_py.Network(package), padded).propose([image], PHRASES, 0.0)[0]
    model = original_checkpoint.build_model(weights, "x")
    other = adapter(model, padded).propose([image], PHRASES, 0.0)[0]
    assert share_found(one, other) >= 0.99


def test_the_package_gives_the_same_in_a_batch(theirs: GroundingDinoProposer) -> None:
    images = [models.image(320, 240, seed) for seed in range(2)]
    together = theirs.propose(images, PHRASES, 0.0)
    for image, found in zip(images, together, strict=True):
        assert share_found(found, theirs.propose([image], PHRASES, 0.0)[0]) >= 0.99


@pytest.mark.timeout(400)
def test_both_load_the_file_by_its_spec(checkpoint: Path, authors_epsilon: None) -> None:
    image = models.image(800, 120, 5)  # long and thin: 1333 pixels wide and soon done
    one = groundingdino_py.load(str(checkpoint), OPTIONS).propose([image], ["person"], 0.0)[0]
    other = original_checkpoint.load(str(checkpoint), OPTIONS).propose([image], ["person"], 0.0)[0]
    assert share_found(one, other) >= 0.99


def test_another_backbone_is_sent_to_the_other_adapter(checkpoint: Path) -> None:
    weights = dict(original_checkpoint.read_weights(checkpoint))
    weights["backbone.0.patch_embed.norm.weight"] = torch.zeros(192)
    with pytest.raises(NotFound, match="idea:"):
        groundingdino_py.build(weights, models.processor().tokenizer, "swin_l.pth")
