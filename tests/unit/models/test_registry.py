import os
import sys
import types
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fakes import ScriptedProposer, ScriptedSegmenter, ScriptedVerifier

from secondlook.config.settings import ModelSettings
from secondlook.models import registry
from secondlook_client.errors import BadSetting, MissingExtra, NotFound, SecondlookError

OPTIONS = ModelSettings(device="cpu")
loaded: list[tuple[str, ModelSettings]] = []


def proposer(argument: str, options: ModelSettings) -> ScriptedProposer:
    loaded.append((argument, options))
    return ScriptedProposer()


def verifier(argument: str, options: ModelSettings) -> ScriptedVerifier:
    return ScriptedVerifier()


def segmenter(argument: str, options: ModelSettings) -> ScriptedSegmenter:
    loaded.append((argument, options))
    return ScriptedSegmenter()


@pytest.fixture(autouse=True)
def third_party(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module ``their.models``, as somebody else would write it."""
    package, module = types.ModuleType("their"), types.ModuleType("their.models")
    package.__path__ = []
    for made in (package, module):
        made.__spec__ = types.SimpleNamespace(name=made.__name__)
    module.load_proposer = proposer
    module.load_verifier = verifier
    module.load_segmenter = segmenter
    monkeypatch.setitem(sys.modules, "their", package)
    monkeypatch.setitem(sys.modules, "their.models", module)
    loaded.clear()
    return module


def register(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Pretend that these entry points, and no others, are installed."""

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [EntryPoint(n, v, group) for n, v in points.items() if name in (None, n)]

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.parametrize(
    ("spec", "argument"),
    [
        ("their.models:load_proposer", ""),
        ("their.models:load_proposer:weights/a:b?c=d", "weights/a:b?c=d"),
        ("  their.models:load_proposer ", ""),
    ],
)
def test_by_import_path(spec: str, argument: str) -> None:
    assert registry.load_proposer(spec, OPTIONS).name == "scripted"
    assert loaded == [(argument, OPTIONS)]
    tiles = registry.load_proposer(spec, replace(OPTIONS, tile=320))
    assert tiles.digest.endswith("-tiles-320-0.2-all")


@pytest.mark.parametrize(
    ("spec", "argument"),
    [("mine", ""), ("mine:", ""), ("mine:http://host:1/v1", "http://host:1/v1")],
)
def test_by_entry_point(monkeypatch: pytest.MonkeyPatch, spec: str, argument: str) -> None:
    register(monkeypatch, mine="their.models:load_proposer")
    registry.load_proposer(spec, OPTIONS)
    assert loaded == [(argument, OPTIONS)]


@pytest.mark.parametrize("spec", ["org/some-model_1.5", "./folder", "/absent", "~/model"])
def test_a_checkpoint_goes_to_transformers(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    register(monkeypatch, transformers="their.models:load_proposer")
    registry.load_proposer(spec, OPTIONS)
    assert loaded == [(spec, OPTIONS)]


def test_an_existing_folder_is_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register(monkeypatch, transformers="their.models:load_proposer")
    (tmp_path / "mymodel").mkdir()
    monkeypatch.chdir(tmp_path)
    registry.load_proposer("mymodel", OPTIONS)
    assert loaded == [("mymodel", OPTIONS)]


def test_no_second_look_and_no_masks() -> None:
    assert registry.load_verifier("none", OPTIONS) is None
    assert registry.load_segmenter(" none ", OPTIONS) is None


@pytest.mark.parametrize("spec", ["org/some-model_1.5", "org/name@v2", "./folder"])
def test_a_checkpoint_of_a_segmenter_goes_to_sam(
    monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    register(monkeypatch, sam="their.models:load_segmenter")
    found = registry.load_segmenter(spec, OPTIONS)
    assert found is not None and found.name == "scripted"
    assert loaded == [(spec, OPTIONS)]


def test_words_are_those_of_a_segmenter(third_party: types.ModuleType) -> None:
    with pytest.raises(NotFound, match=r"there is no segmenter 'absent'\. Known are demo, sam, "):
        registry.load_segmenter("absent", OPTIONS)
    third_party.load = lambda argument, options: ScriptedVerifier()
    with pytest.raises(BadSetting, match=r"usable encode \(a method\), segment .*\.segmenter$"):
        registry.load_segmenter("their.models:load", OPTIONS)


def test_own_models_are_registered() -> None:
    assert set(registry.available(registry.PROPOSERS)) >= {"demo", "transformers", "idea"}
    assert set(registry.available(registry.VERIFIERS)) >= {"demo", "transformers", "ollama"}
    segmenters = {"demo", "sam", "sam-onnx", "segment-anything"}
    assert set(registry.available(registry.SEGMENTERS)) >= segmenters


@pytest.mark.parametrize("spec", ["", "absent", "absent:argument", "absent.module:load", "a b/c"])
def test_an_unknown_name_lists_the_known(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    register(monkeypatch, mine="a:b", yours="c:d")
    with pytest.raises(NotFound, match=r"Known are mine, yours; .*PYTHONPATH"):
        registry.load_proposer(spec, OPTIONS)


def test_a_missing_attribute(third_party: types.ModuleType) -> None:
    with pytest.raises(NotFound, match=r"'their\.models' has no 'lood'"):
        registry.load_proposer("their.models:lood", OPTIONS)
    third_party.text = "no factory"
    with pytest.raises(BadSetting, match="cannot be called"):
        registry.load_proposer("their.models:text", OPTIONS)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("moondream", r'pip install "secondlook\[moondream\]"'),
        ("transformers.models", r'pip install "secondlook\[serve\]"'),
        ("their_runtime", "No module named 'their_runtime'"),
    ],
)
def test_a_missing_package(third_party: types.ModuleType, module: str, said: str) -> None:
    def load(argument: str, options: ModelSettings) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    third_party.load = load
    with pytest.raises(MissingExtra, match=said):
        registry.load_verifier("their.models:load", OPTIONS)


def test_a_package_of_another_version_is_not_called_missing(
    third_party: types.ModuleType,
) -> None:
    def load(argument: str, options: ModelSettings) -> None:
        raise ImportError("cannot import name 'AutoModel' from 'transformers'", name="transformers")

    third_party.load = load
    with pytest.raises(MissingExtra, match=r"could not be imported .*AutoModel"):
        registry.load_proposer("their.models:load", OPTIONS)


def test_a_factory_of_another_shape(third_party: types.ModuleType) -> None:
    third_party.load = lambda options: None
    with pytest.raises(BadSetting, match=r"takes \(options\); expected \(argument: str"):
        registry.load_proposer("their.models:load", OPTIONS)


def test_an_adapters_own_error_passes_through(third_party: types.ModuleType) -> None:
    def load(argument: str, options: ModelSettings) -> None:
        raise NotFound("no such checkpoint")

    third_party.load = load
    with pytest.raises(NotFound, match="no such checkpoint"):
        registry.load_proposer("their.models:load", OPTIONS)


@pytest.mark.parametrize(
    ("lacks", "value"), [("min_side", None), ("min_side", 0), ("digest", 3), ("answer", "text")]
)
def test_a_half_made_plug_in_is_told_what_it_lacks(
    third_party: types.ModuleType, lacks: str, value: object
) -> None:
    def load(argument: str, options: ModelSettings) -> ScriptedVerifier:
        made = ScriptedVerifier()
        setattr(made, lacks, value)
        return made

    third_party.load = load
    with pytest.raises(BadSetting, match=f"ScriptedVerifier without a usable {lacks}"):
        registry.load_verifier("their.models:load", OPTIONS)


def test_a_verifier_is_no_proposer() -> None:
    with pytest.raises(SecondlookError, match="usable propose"):
        registry.load_proposer("their.models:load_verifier", OPTIONS)


def test_two_processes_do_not_spin_each_other_to_a_crawl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    registry.prepare_process(ModelSettings())
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    os.environ["GOMP_SPINCOUNT"] = "7"
    registry.prepare_process(ModelSettings(threads=3))
    assert os.environ["GOMP_SPINCOUNT"] == "7" and os.environ["OMP_NUM_THREADS"] == "3"
