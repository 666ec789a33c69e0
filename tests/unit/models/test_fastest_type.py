"""``--dtype fastest``: which type of matrix products is chosen, and what is said about it."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from secondlook.config.settings import ModelSettings
from secondlook.core import processors
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.models import fastest_type, registry
from secondlook.models.fastest_type import fastest_proposer, fastest_verifier, native_types
from secondlook.models.grounding_dino import GroundingDinoProposer
from secondlook_client.errors import BadOntology
from secondlook_client.values import Answer

OPTIONS = ModelSettings(device="cpu", dtype="fastest")
SLOW_S, FAST_S = 0.03, 0.005


class TimedModel:
    """Takes a while, and is off by so much in both stages."""

    name, digest, min_side, device = "timed", "1", 1, "cpu"

    def __init__(self, dtype: str, seconds: float, off: float = 0.0) -> None:
        self.dtype, self._seconds, self._off = dtype, seconds, off

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        time.sleep(self._seconds)
        at = np.arange(200, dtype=np.float32)[:, None] * 2
        boxes = np.concatenate([at, at, at + 40, at + 40], axis=1)
        scores = np.full((200, len(phrases)), 0.5 + self._off, np.float32)
        return [Proposals(boxes, scores)]

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        time.sleep(self._seconds)
        return [tuple(Answer(0.5 + self._off, "yes") for _ in one.questions) for one in queries]


def chosen(monkeypatch: pytest.MonkeyPatch, *, seconds: float, off: float) -> set[str]:
    """The types that both stages take where bfloat16 is so fast and so far off."""
    monkeypatch.setattr(fastest_type, "native_types", lambda device: ("bfloat16",))

    def load(options: ModelSettings) -> TimedModel:
        if options.dtype == "float32":
            return TimedModel("float32", SLOW_S)
        return TimedModel(options.dtype, seconds, off)

    models = fastest_proposer(load, OPTIONS), fastest_verifier(load, OPTIONS)
    return {model.dtype for model in models if isinstance(model, TimedModel)}


def test_a_faster_type_with_the_same_outcomes_is_chosen_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(monkeypatch, seconds=FAST_S, off=0.005) == {"bfloat16"}
    said = caplog.messages
    assert len(said) == 2 and all("bfloat16 for timed; bfloat16 is" in line for line in said)
    assert all("100.0% the same" in line for line in said)


@pytest.mark.parametrize(("seconds", "off"), [(FAST_S, 0.02), (2 * SLOW_S, 0.0)])
def test_float32_stays_where_outcomes_change_or_little_is_gained(
    monkeypatch: pytest.MonkeyPatch, seconds: float, off: float
) -> None:
    assert chosen(monkeypatch, seconds=seconds, off=off) == {"float32"}


def test_nothing_is_tried_where_there_is_no_other_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fastest_type, "native_types", lambda device: ())
    model = fastest_proposer(lambda options: TimedModel(options.dtype, 0.0), OPTIONS)
    assert isinstance(model, TimedModel) and model.dtype == "float32"
    assert caplog.messages == ["--dtype fastest: float32, as this device has no other type"]


def test_a_proposer_of_other_words_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherWords(TimedModel):
        def propose(
            self, images: Sequence[Image], phrases: Sequence[str], floor: float
        ) -> list[Proposals]:
            raise BadOntology("no such word")

    monkeypatch.setattr(fastest_type, "native_types", lambda device: ("bfloat16",))
    model = fastest_proposer(lambda options: OtherWords(options.dtype, 0.0), OPTIONS)
    assert isinstance(model, OtherWords) and model.dtype == "float32"


def test_a_model_that_says_nothing_of_a_device_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TimedModel, "device", "")
    assert chosen(monkeypatch, seconds=FAST_S, off=0.0) == {"float32"}


@pytest.mark.parametrize(
    ("flags", "types"),
    [
        ("fpu avx2 avx512_bf16 amx_bf16", ("bfloat16",)),
        ("Features: fp asimd bf16", ("bfloat16",)),
        ("fpu avx2 avx512f", ()),
    ],
)
def test_a_processor_says_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, types: tuple[str, ...]
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(processors, "_CPUS", tmp_path / "cpuinfo")
    assert native_types("cpu") == types
    monkeypatch.setattr(processors, "_CPUS", tmp_path / "missing")
    assert native_types("cpu") == ()
    assert native_types("cuda") == ("bfloat16", "float16")


def test_the_demo_proposer_is_tried_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fastest_type, "native_types", lambda device: ("bfloat16",))
    model = registry.load_proposer("demo", OPTIONS)
    assert "cannot be tried" not in caplog.text
    assert "bfloat16 is" in caplog.text
    assert model.name == "demo-proposer"
    assert not isinstance(model, GroundingDinoProposer)
