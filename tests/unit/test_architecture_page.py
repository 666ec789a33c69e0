"""The page on the architecture is true: its files exist and its examples work as they stand."""

import csv
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from secondlook.config.settings import ModelSettings
from secondlook.config.spec import SettingGroup, setting
from secondlook.core.types import Image
from secondlook.datasets.writers import Labels
from secondlook.models.registry import load_proposer
from secondlook_client.values import LabelResult

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"\*\*(an? [\w ]+)\*\*:.*?```python\n(.*?)```", PAGE, re.DOTALL))


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`(?:[\w/]+ )?([\w/]+/[\w.]+\.py)`", PAGE))
    roots = (ROOT / "service" / "secondlook", ROOT / "clients", ROOT / "clients/secondlook_client")
    assert len(named) > 25
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


def test_examples_are_short_and_cover_what_grows() -> None:
    assert BLOCKS.keys() == {
        "a setting",
        "a model",
        "an export format",
        "an RPC",
        "a command",
    }
    for what, code in BLOCKS.items():
        assert code.count("\n") <= 20, what
        compile(code, what, "exec")


def test_a_setting_is_one_field() -> None:
    body = "class Added(SettingGroup):\n    " + BLOCKS["a setting"].replace("\n", "\n    ")
    scope = {"SettingGroup": SettingGroup, "setting": setting}
    exec("from dataclasses import dataclass\n@dataclass(frozen=True)\n" + body, scope)
    spec = scope["Added"].specs()["batching_window_ms"]  # type: ignore[attr-defined]
    assert (spec.default, spec.unit, spec.low, spec.high) == (20.0, "ms", 0, 10_000)


def test_a_model_is_a_class_and_a_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(BLOCKS["a model"])
    monkeypatch.syspath_prepend(tmp_path)
    proposer = load_proposer("my_models:load", ModelSettings())
    monkeypatch.delitem(sys.modules, "my_models")
    (found,) = proposer.propose([Image(np.zeros((20, 30, 3), np.uint8), "")], ["dog", "cat"], 0.1)
    assert found.boxes.tolist() == [[0, 0, 30, 20]] and found.scores.shape == (1, 2)


def test_an_export_format_is_one_function(tmp_path: Path) -> None:
    scope: dict[str, object] = {"csv": csv}
    exec(BLOCKS["an export format"], scope)
    plain = {"name": "a.jpg", "sha256": "", "width": 9, "height": 9, "proposals": 0}
    result = LabelResult(**plain, judgements=(), proposer="p", verifier="v")  # type: ignore[arg-type]
    rows = lambda: iter([("a.jpg", result)])  # noqa: E731
    labels = Labels(["dog"], rows, lambda name, result, path: None)
    scope["write"]({"train": labels}, tmp_path)  # type: ignore[operator]
    assert (tmp_path / "train.csv").read_text() == ""


def test_a_command_is_a_function(tmp_path: Path) -> None:
    scope: dict[str, object] = {"click": click, "Path": Path}
    exec(BLOCKS["a command"], scope)
    (tmp_path / "a.jpg").write_bytes(b"")
    command = scope["count_command"]
    assert isinstance(command, click.Command)
    done = CliRunner().invoke(command, [str(tmp_path)])
    assert (done.exit_code, done.output) == (0, "1\n"), done


def test_an_rpc_is_a_method_on_both_sides() -> None:
    scope: dict[str, object] = {"CALL_S": 1.0, "pb": SimpleNamespace()}
    exec(BLOCKS["an RPC"], scope)
    assert callable(scope["DeleteSnapshot"]) and callable(scope["delete"])
