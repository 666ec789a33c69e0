import threading
from dataclasses import replace

import numpy as np
import pytest
from fakes import ScriptedVerifier, make_image
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from traced_memory import traced_memory

from secondlook.core.types import Image
from secondlook.labeling.verifier import VerdictCache, VerificationRequest, Verifier, verify
from secondlook_client.errors import Unavailable
from secondlook_client.values import Answer, View

IMAGE = Image(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8), "0" * 64)
LEFT, RIGHT = (0.0, 0.0, 20.0, 20.0), (30.0, 10.0, 50.0, 30.0)


def look(
    box: tuple[float, float, float, float], *questions: str, view: View = View.CROP
) -> VerificationRequest:
    return VerificationRequest(IMAGE, box, view, questions)


def p_yes(
    verifier: ScriptedVerifier, looks: list[VerificationRequest], cache: VerdictCache
) -> list[list]:
    return [[v.answer.p_yes for v in of_look] for of_look in verify(verifier, looks, cache)]


def test_the_fake_is_a_verifier() -> None:
    assert isinstance(ScriptedVerifier(), Verifier)


def test_every_question_gets_its_own_answer_in_order() -> None:
    verifier = ScriptedVerifier({"a?": 0.1, "b?": 0.2, "c?": 0.3})
    found = verify(verifier, [look(LEFT, "a?", "b?"), look(RIGHT, "c?", "a?")], VerdictCache(100))
    assert [[v.question for v in of_look] for of_look in found] == [["a?", "b?"], ["c?", "a?"]]
    assert [[v.answer.p_yes for v in of_look] for of_look in found] == [[0.1, 0.2], [0.3, 0.1]]
    assert found[0][0].model == "scripted@v0"
    assert (verifier.calls, verifier.views) == (1, 2)


def test_what_is_known_is_not_asked_again() -> None:
    verifier, cache = ScriptedVerifier({"a?": 0.1, "b?": 0.2}), VerdictCache(100)
    p_yes(verifier, [look(LEFT, "a?")], cache)
    again = verify(verifier, [look(LEFT, "b?", "a?")], cache)
    assert [(v.answer.p_yes, v.cached) for v in again[0]] == [(0.2, False), (0.1, True)]
    assert again[0][1].ms == 0
    assert verifier.questions == ["a?", "b?"]
    p_yes(verifier, [look(LEFT, "a?", "b?")], cache)
    assert verifier.calls == 2


def test_boxes_that_show_the_same_pixels_are_one_view_and_equal_questions_one_question() -> None:
    verifier = ScriptedVerifier({"a?": 0.1, "b?": 0.2, "c?": 0.3})
    whole = [look(LEFT, "a?", "b?", view=View.IMAGE), look(RIGHT, "c?", "a?", view=View.IMAGE)]
    decoy = replace(whole[0], questions=("a?",), decoy=True)
    seen: list[Answer] = []
    found = verify(verifier, [*whole, decoy], VerdictCache(100), seen.extend)
    assert [[v.answer.p_yes for v in of_look] for of_look in found] == [
        [0.1, 0.2],
        [0.3, 0.1],
        [0.1],
    ]
    assert [v.cached for v in found[1]] == [False, True]
    assert (found[1][1].ms, found[0][0].ms > 0) == (0, True)
    # A decoy is asked as if nothing else were: the real answers are the same with it and without.
    assert (verifier.views, verifier.questions) == (2, ["a?", "b?", "c?", "a?"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    "other",
    [
        look(RIGHT, "a?"),
        look(LEFT, "a? "),
        look(LEFT, "a?", view=View.CONTEXT),
        VerificationRequest(Image(IMAGE.pixels ^ 1, "0" * 64), LEFT, View.CROP, ("a?",)),
    ],
)
def test_another_view_or_question_is_asked(other: VerificationRequest) -> None:
    verifier, cache = ScriptedVerifier(), VerdictCache(100)
    verify(verifier, [look(LEFT, "a?")], cache)
    verify(verifier, [other], cache)
    assert verifier.calls == 2


def test_another_model_is_asked() -> None:
    cache, other = VerdictCache(100), ScriptedVerifier(0.2)
    other.digest = "v1"
    assert p_yes(ScriptedVerifier(0.1), [look(LEFT, "a?")], cache) == [[0.1]]
    assert p_yes(other, [look(LEFT, "a?")], cache) == [[0.2]]


def test_views_of_equal_bytes_and_other_shape_differ() -> None:
    wide, high = make_image(width=20, height=10), make_image(width=10, height=20)
    cache, verifier = VerdictCache(100), ScriptedVerifier()
    for image in (wide, high):
        verify(verifier, [VerificationRequest(image, (0, 0, 20, 20), View.IMAGE, ("a?",))], cache)
    assert verifier.calls == 2


def failing(question: str) -> Answer:
    raise Unavailable("the backend is down; start it")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (failing, "the backend is down; start it"),
        (lambda question: {}[question], "the verifier failed (KeyError); see the log"),
        (lambda question: Answer(None, error="busy"), "busy"),
        (lambda question: Answer(float("nan")), "the verifier gave P(yes) = nan"),
        (lambda question: Answer(1.5), "the verifier gave P(yes) = 1.5"),
    ],
)
def test_a_failure_is_no_verdict_and_is_asked_again(script: object, error: str) -> None:
    verifier, cache = ScriptedVerifier(script), VerdictCache(100)  # type: ignore[arg-type]
    (verdict,) = verify(verifier, [look(LEFT, "a?")], cache)[0]
    assert (verdict.answer.p_yes, verdict.answer.error) == (None, error)
    verifier.script = 0.9
    (verdict,) = verify(verifier, [look(LEFT, "a?")], cache)[0]
    assert (verdict.answer.p_yes, verdict.cached) == (0.9, False)


@pytest.mark.parametrize("answers", [[], [()], [(Answer(1.0), Answer(1.0))], None])
def test_a_wrong_number_of_answers_is_no_verdict(answers: list | None) -> None:
    verifier = ScriptedVerifier()
    verifier.answer = lambda asks: answers  # type: ignore[method-assign,return-value,assignment]
    ((verdict,),) = verify(verifier, [look(LEFT, "a?")], VerdictCache(100))
    assert verdict.answer.p_yes is None
    assert verdict.answer.error


def test_an_abstention_has_its_words_and_is_asked_again() -> None:
    """A model that got no image abstains on all; once it gets them, it must not stay so."""
    verifier, cache = (
        ScriptedVerifier(lambda question: Answer(None, raw="maybe")),
        VerdictCache(100),
    )
    for _ in range(2):
        (verdict,) = verify(verifier, [look(LEFT, "a?")], cache)[0]
        assert (verdict.answer.p_yes, verdict.answer.raw) == (None, "maybe")
    assert verifier.calls == 2


def test_nothing_to_ask() -> None:
    verifier = ScriptedVerifier()
    assert verify(verifier, [], VerdictCache(100)) == []
    assert verify(verifier, [look(LEFT)], VerdictCache(100)) == [()]
    assert verifier.calls == 0


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("abc"), max_size=3)), max_size=6))
def test_a_cache_changes_no_answer(wanted: list[tuple[bool, list[str]]]) -> None:
    looks = [look(LEFT if left else RIGHT, *questions) for left, questions in wanted]
    script = {"a": 0.1, "b": 0.2, "c": 0.3}
    expected = [[script[question] for question in questions] for _, questions in wanted]
    for size in (0, 1, 100):
        cache = VerdictCache(size)
        assert p_yes(ScriptedVerifier(script), looks, cache) == expected
        assert p_yes(ScriptedVerifier(script), looks, cache) == expected


def test_a_cached_answer_takes_a_quarter_of_a_kilobyte() -> None:
    cache, count = VerdictCache(10_000), 1_000
    verifier = ScriptedVerifier(0.3)
    with traced_memory() as memory:
        for number in range(count):
            verify(verifier, [look(LEFT, f"is {number} in the image?")], cache)
    assert p_yes(ScriptedVerifier(), [look(LEFT, "is 7 in the image?")], cache) == [[0.3]]
    assert memory.kept < 350 * count


class CacheMachine(RuleBasedStateMachine):
    """The cache against a list in order of use."""

    size = 3

    def __init__(self) -> None:
        super().__init__()
        self.cache = VerdictCache(self.size)
        self.used: list[tuple[int, Answer]] = []

    @rule(key=st.integers(0, 5), value=st.floats(0, 1))
    def put(self, key: int, value: float) -> None:
        self.cache.put(bytes([key]), Answer(value))
        self.used = [entry for entry in self.used if entry[0] != key] + [(key, Answer(value))]
        self.used = self.used[-self.size :]

    @rule(key=st.integers(0, 5))
    def put_failure(self, key: int) -> None:
        self.cache.put(bytes([key]), Answer(None, error="down"))

    @rule(key=st.integers(0, 5))
    def get(self, key: int) -> None:
        known = dict(self.used).get(key)
        assert self.cache.get(bytes([key])) == known
        if known is not None:
            self.used = [e for e in self.used if e[0] != key] + [(key, known)]

    @invariant()
    def bounded(self) -> None:
        assert len(self.cache._answers) == len(self.used) <= self.size


TestCache = CacheMachine.TestCase


def test_the_cache_is_safe_between_threads() -> None:
    cache, failures = VerdictCache(8), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for key in rng.integers(0, 20, 2000):
                cache.put(bytes([key]), Answer(key / 20))
                found = cache.get(bytes([key]))
                assert found is None or found.p_yes == key / 20
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
