"""The authors' own checkpoints: names translated, sizes read off the shapes, errors that help.

The synthetic file is made by translating a random model's weights back by the same table; that
the table itself is right is shown against the authors' package in ``tests/peers``.
"""

from pathlib import Path

import grounding_dino_models as models
import numpy as np
import pytest
import torch
from transformers import GroundingDinoForObjectDetection

from secondlook.config.settings import ModelSettings
from secondlook.models import grounding_dino, original_checkpoint
from secondlook.models.original_checkpoint import rename, translate
from secondlook_client.errors import NotFound

OPTIONS = ModelSettings(device="cpu")
PHRASES = ["person", "hot dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers checkpoint with eight heads, as the originals have."""
    return models.save(tmp_path_factory.mktemp("ours"), heads=8)


@pytest.fixture(scope="module")
def original(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a ``.pth`` of the authors' layout, with its vocabulary beside it."""
    path = tmp_path_factory.mktemp("theirs") / "groundingdino_small.pth"
    weights = {f"module.{name}": value for name, value in models.original_names(folder).items()}
    weights["module.bert.pooler.dense.bias"] = torch.zeros(64)
    torch.save({"model": weights}, path)
    models.processor().tokenizer.save_pretrained(path.parent)
    return path


def test_a_translated_checkpoint_is_the_same_model(folder: Path, original: Path) -> None:
    ours = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    theirs = original_checkpoint.build_model(original_checkpoint.read_weights(original), "x").eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    inputs = {
        "pixel_values": torch.randn(1, 3, 96, 128, generator=torch.manual_seed(0)),
        "input_ids": torch.tensor([[101, 1031, 1012, 1032, 1012, 102]]),
    }
    with torch.no_grad():
        expected, found = ours(**inputs), theirs(**inputs)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    tokens = inputs["input_ids"].shape[1]  # behind them both hold -inf, to their longest caption
    torch.testing.assert_close(
        found.logits[..., :tokens], expected.logits[..., :tokens], atol=1e-4, rtol=0
    )


def test_a_translated_checkpoint_proposes(original: Path) -> None:
    image = models.image(640, 480)
    proposer = original_checkpoint.load(str(original), OPTIONS)
    found = proposer.propose([image], PHRASES, 0.01)[0]
    assert len(found) > 0
    assert found.scores.shape[1] == 2
    assert np.isfinite(found.boxes).all()
    assert proposer.name == "groundingdino_small"


def test_sizes_are_read_off_the_shapes(folder: Path, original: Path) -> None:
    read = original_checkpoint.build_model(original_checkpoint.read_weights(original), "x").config
    config = GroundingDinoForObjectDetection.from_pretrained(folder).config
    for name in (
        "d_model", "num_queries", "num_feature_levels", "encoder_layers", "decoder_layers",
        "encoder_ffn_dim", "decoder_ffn_dim", "encoder_n_points", "decoder_n_points",
    ):  # fmt: skip
        assert getattr(read, name) == getattr(config, name), name
    for name in ("embed_dim", "depths", "num_heads", "window_size"):
        assert getattr(read.backbone_config, name) == getattr(config.backbone_config, name), name


def test_names_that_nobody_knows_are_reported_and_not_guessed() -> None:
    assert rename("transformer.encoder.layers.3.norm9.weight") is None
    found, unknown = translate({"label_enc.weight": torch.zeros(1), "bert.pooler.x": torch.ones(1)})
    assert (found, unknown) == ({}, ("label_enc.weight",))


def test_heads_of_their_own_for_each_decoder_layer_are_kept(original: Path) -> None:
    weights = dict(original_checkpoint.read_weights(original))
    for name in [n for n in weights if "module.bbox_embed.0" in n]:
        weights[name.replace("embed.0", "embed.1")] = weights[name] + 1
    model = original_checkpoint.build_model(weights, "x")
    first, second = (head.layers[0].weight for head in model.bbox_embed)
    assert torch.equal(second, first + 1)


def test_a_missing_file_says_where_it_is_had(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="releases of IDEA-Research"):
        original_checkpoint.read_weights(tmp_path / "groundingdino_swint_ogc.pth")
    with pytest.raises(NotFound, match="releases of IDEA-Research"):  # before any tokenizer
        original_checkpoint.load(str(tmp_path / "groundingdino_swint_ogc.pth"), OPTIONS)


class Evil:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", Evil(), {"model": {"a": 1}}, [1]])
def test_files_that_hold_something_else(
    tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(NotFound, match=r"odd\.pth"):
        original_checkpoint.read_weights(path)
    assert "executed" not in capsys.readouterr().out


def test_a_checkpoint_that_lacks_a_part_names_it(original: Path) -> None:
    weights = dict(original_checkpoint.read_weights(original))
    del weights["module.transformer.enc_output.weight"]
    with pytest.raises(NotFound, match=r"enc_output\.weight"):
        original_checkpoint.build_model(weights, "cut.pth")
    with pytest.raises(NotFound, match="no Grounding DINO"):
        original_checkpoint.build_model({"module.bert.x": torch.zeros(1)}, "cut.pth")


def test_a_missing_tokenizer_says_how_to_give_one(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    alone = tmp_path / "alone.pth"
    alone.write_bytes(original.read_bytes())
    with pytest.raises(NotFound, match="tokenizer=FOLDER"):
        original_checkpoint.load(str(alone), OPTIONS)
    with pytest.raises(NotFound, match=r"vocab\.txt"):
        original_checkpoint.load(f"{alone}?tokenizer={tmp_path}", OPTIONS)
    given = original_checkpoint.load(f"{alone}?tokenizer={original.parent}", OPTIONS)
    beside = original_checkpoint.load(str(original), OPTIONS)
    image = models.image(90, 60)
    np.testing.assert_array_equal(
        given.propose([image], PHRASES, 0.0)[0].boxes,
        beside.propose([image], PHRASES, 0.0)[0].boxes,
    )
    assert isinstance(given, grounding_dino.GroundingDinoProposer)
