"""Loading a vision-language checkpoint: what is refused, and what is said then."""

from pathlib import Path

import pytest

from secondlook.config.settings import ModelSettings
from secondlook.models import vlm
from secondlook_client.errors import BadSetting, NotFound


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "no checkpoint was named"),
        ("./nowhere/at/all", "no folder"),
        ("no-such-org/no-such-model", "--models demo"),
    ],
)
def test_a_missing_checkpoint_says_the_way_out(
    argument: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=words):
        vlm.load(argument, ModelSettings(device="cpu"))


def test_a_folder_without_safetensors_or_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(NotFound, match="no safetensors"):
        vlm.load(str(tmp_path), ModelSettings(device="cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotFound, match=r"no config\.json"):
        vlm.load(str(tmp_path), ModelSettings(device="cpu"))


def test_code_of_a_checkpoint_is_run_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "own.Model"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadSetting, match="--trust-remote-code"):
        vlm.load(str(tmp_path), ModelSettings(device="cpu"))


def test_a_checkpoint_that_is_no_vision_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadSetting, match="cannot be loaded as a vision-language model"):
        vlm.load(str(tmp_path), ModelSettings(device="cpu"))
