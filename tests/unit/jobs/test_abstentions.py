"""A verifier that answers nothing stops its job; one that abstains now and then does not."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from job_images import DOGS, ended, fill, running, soon, wait_for

from secondlook.core.types import Evidence, Image, Labelled, Proposals
from secondlook.jobs import failure_policy
from secondlook.jobs.abstentions import FIRST_ANSWERS, AbstentionCheck
from secondlook.store import Store
from secondlook_client.values import Answer, JobState, Outcome, Verdict, View

__all__ = ["soon"]
"""A fixture of these tests."""

NO_IMAGE = "No image was provided"


def labelled(*answers: Answer) -> Labelled:
    """An image with one answer a box."""
    verdicts = {
        (row, View.CROP, "Is it a dog?"): Verdict("Is it a dog?", View.CROP, answer, "m", 0.0)
        for row, answer in enumerate(answers)
    }
    none = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, 1), np.float32))
    evidence = Evidence(none, verdicts, "p", "v")
    return Labelled("x", "0" * 64, 9, 9, (), evidence)


YES, ABSTAINED = Answer(0.9, "Yes"), Answer(None, NO_IMAGE)


def test_a_verifier_that_abstains_on_the_first_images_is_told_with_its_words() -> None:
    check = AbstentionCheck()
    problems = [check.problem(key, labelled(ABSTAINED, ABSTAINED)) for key in range(5)]
    assert problems[:3] == [""] * 3
    assert f"8 of the first {FIRST_ANSWERS} questions" in problems[3] and NO_IMAGE in problems[3]
    assert problems[4]


def test_one_image_tried_again_counts_once() -> None:
    check = AbstentionCheck()
    assert {check.problem(7, labelled(*[ABSTAINED] * 3)) for _ in range(9)} == {""}


def test_images_that_are_answered_when_tried_again_are_not_held_against_it() -> None:
    check = AbstentionCheck()
    assert [bool(check.problem(key, labelled(*[ABSTAINED] * 3))) for key in range(16)][-1]
    assert not any(check.problem(key, labelled(*[YES] * 3)) for key in range(16))
    assert not check.problem(99, labelled(*[ABSTAINED] * 3))


@pytest.mark.parametrize("first", [0, 8])
def test_one_strange_image_does_not_stop_a_job_for_good(first: int) -> None:
    check = AbstentionCheck()
    strange = labelled(*[ABSTAINED] * 20)
    if first == 0:
        assert check.problem(0, strange)
    assert not any(check.problem(key, labelled(YES)) for key in range(1, 9))
    assert check.problem(0, strange) == ""


def test_once_passed_a_verifier_is_not_judged_again() -> None:
    check = AbstentionCheck()
    assert not any(check.problem(key, labelled(YES)) for key in range(FIRST_ANSWERS))
    assert not any(check.problem(100 + key, labelled(ABSTAINED)) for key in range(50))


def test_failures_and_images_without_a_question_say_nothing() -> None:
    check = AbstentionCheck()
    down = labelled(*[Answer(None, error="down")] * 9)
    assert not any(check.problem(key, image) for key, image in enumerate([down, labelled()] * 9))


def boxes(image: Image, phrases: Sequence[str]) -> list[Row]:
    return [((x, 1, x + 5, 9), dict.fromkeys(phrases, 0.9)) for x in (1, 9, 17)]


def test_a_job_waits_with_the_verifiers_words_and_goes_on_when_it_answers(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 20)
    blind = threading.Event()
    blind.set()

    def answer(question: str) -> Answer:
        return ABSTAINED if blind.is_set() else YES

    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], ScriptedProposer(boxes), ScriptedVerifier(answer)):
        waiting = wait_for(store, "j", lambda job: bool(job.message))
        assert "neither yes nor no" in waiting.message and NO_IMAGE in waiting.message
        assert waiting.active and waiting.done < 4
        blind.clear()
        job = wait_for(store, "j", ended)
    assert (job.state, job.done, job.failed, job.message) == (JobState.DONE, 20, 0, "")
    outcomes = [len(r.labelled.of(Outcome.ACCEPT)) for r in store.results.page(made.run_id)]
    assert outcomes.count(3) >= 16, "all but those of before the job waited"


def test_nobody_waits_for_ever(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_policy, "MAX_FREE_S", 0.3)
    made = store.queue.create("j", "folder", DOGS, str(fill(tmp_path / "images", 9)))
    with running(store, [tmp_path], ScriptedProposer(boxes), ScriptedVerifier(lambda _: ABSTAINED)):
        job = wait_for(store, "j", ended)
    assert (job.done, job.failed) == (9, 0)
    assert all(len(r.labelled.of(Outcome.UNSURE)) == 3 for r in store.results.page(made.run_id))
