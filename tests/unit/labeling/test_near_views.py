"""Answers that stand for a place which barely changed; and what is asked again all the same."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Image
from secondlook.labeling import near_views
from secondlook.labeling.near_views import NearViews
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.verifier import VerdictCache, VerificationRequest, verify
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Verdict, View

RNG = np.random.default_rng(5)
SCENE = np.kron(RNG.integers(30, 220, (12, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8)
BOX = (20.0, 20.0, 100.0, 100.0)


def frame(number: int, change: int = 0) -> Image:
    """The scene through a noisy camera; ``change``: levels that a tenth of the box is brighter."""
    noise = np.random.default_rng(number).normal(0, 4, SCENE.shape)
    pixels = SCENE + noise
    pixels[40:56, 40:80] += change
    return Image(np.clip(pixels, 0, 255).astype(np.uint8), f"{number:064d}", f"{number}.jpg")


def look(number: int, **other: object) -> VerificationRequest:
    made = VerificationRequest(frame(number), BOX, View.CROP, ("a?",), source="gate")
    return replace(made, **other)  # type: ignore[arg-type]


class Asking:
    """A verifier that says something else each time, with all that stands before it."""

    def __init__(self) -> None:
        said = iter(np.linspace(0, 1, 50).tolist())
        self.verifier = ScriptedVerifier(lambda question: Answer(next(said)))
        self.cache, self.near = VerdictCache(100), NearViews()

    def __call__(self, *looks: VerificationRequest) -> list[Verdict]:
        found = verify(self.verifier, looks, self.cache, None, self.near.find)
        return [verdict for of_look in found for verdict in of_look]


def test_a_still_place_is_asked_about_once_and_says_in_which_image() -> None:
    ask = Asking()
    first, second = ask(look(1), look(2))  # in one batch
    trembling = look(3, box=(21.0, 18.0, 103.0, 101.0))
    (third,) = ask(trembling)
    assert ask.verifier.views == 1
    assert first.answer == second.answer == third.answer
    assert [v.reused_from for v in (first, second, third)] == ["", "1.jpg", "1.jpg"]
    assert [v.cached for v in (first, second, third)] == [False, True, True]
    other, again = ask(look(4, questions=("b?", "a?")))
    assert (other.reused_from, again.reused_from) == ("", "1.jpg")  # that question is new


@pytest.mark.parametrize(
    "other",
    [
        {"image": frame(2, change=40)},
        {"box": (60.0, 20.0, 140.0, 100.0)},
        {"view": View.CONTEXT},
        {"source": "another"},
        {"source": ""},
        {"decoy": True},
        {"image": frame(1), "box": (21.0, 18.0, 103.0, 101.0)},
        {"image": Image(frame(2).pixels[:110], "2" * 64)},
    ],
)
def test_what_changed_or_is_of_something_else_is_asked_about(other: dict) -> None:
    ask = Asking()
    ask(look(1))
    (verdict,) = ask(look(2, **other))
    assert (ask.verifier.views, verdict.reused_from, verdict.cached) == (2, "", False)


def test_slow_changes_do_not_add_up() -> None:
    ask = Asking()
    for number in range(1, 13):
        ask(look(number, image=frame(number, change=number)))
    assert 2 <= ask.verifier.views <= 4


def test_no_answer_is_not_reused_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_views, "SOURCES", 3)
    ask = Asking()
    ask.verifier.script = lambda question: Answer(None, error="down")
    ask(look(1))
    ask.verifier.script = 0.7
    (verdict,) = ask(look(2))
    assert (verdict.answer.p_yes, verdict.reused_from) == (0.7, "")
    for number in range(10):
        ask(look(number, source=f"stream {number}"))
    assert len(ask.near._seen) == 3


def test_a_pipeline_reuses_answers_only_if_it_is_told_to() -> None:
    boxes = ScriptedProposer(lambda image, phrases: [(BOX, {"dog": 0.8})])
    tasks = [Task(frame(n), Ontology((ClassSpec("dog"),)), "gate") for n in (1, 2)]
    for settings, views in ((PipelineSettings(), 2), (PipelineSettings(reuse_answers=True), 1)):
        verifier = ScriptedVerifier(0.9)
        labelled = Pipeline(boxes, verifier, settings).label(tasks)
        assert verifier.views == views
        origins = [j.verdict.reused_from for one in labelled for j in one.judgements if j.verdict]
        assert origins == ["", "1.jpg" if views == 1 else ""]
        assert settings.recorded().get("reuse_answers", False) is (views == 1)
    with pytest.raises(BadSetting, match="--verdict-cache-size is 0"):
        Pipeline(boxes, verifier, PipelineSettings(reuse_answers=True, verdict_cache_size=0))
