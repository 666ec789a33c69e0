"""The order of frames, and answers that outlast their process."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.frame_names import FrameAddress
from secondlook.jobs.answer_log import AnswerLog, BoxQuestion
from secondlook.jobs.tracking import FrameOrder
from secondlook_client.values import Answer, Verdict, View

ASKED = BoxQuestion(7, 2, View.CROP, "Is this a dog?")


def verdict(p_yes: float | None = 0.9, question: str = ASKED.question, error: str = "") -> Verdict:
    return Verdict(question, View.CROP, Answer(p_yes, "Yes ü", error), "vlm@1", 12.5)


def named(*names: str) -> list[tuple[int, str]]:
    """With cursors in this order."""
    return list(enumerate(names, start=1))


def test_frames_are_in_the_order_of_their_time_whatever_the_order_of_their_labels() -> None:
    frames = [FrameAddress("b.mp4", ms).name for ms in (400, 0, 200)]
    order = FrameOrder.of(named(*frames, "a/2.png", "a/1.png", "a/10.png"), fps=4)
    assert order.cursors.tolist() == [5, 6, 4, 2, 3, 1]
    assert order.at_s.tolist() == [0, 0.25, 0.5, 0, 0.2, 0.4]
    assert order.starts == (0, 3, 6)
    assert order.fps(3, 6) == pytest.approx(5)


@given(st.lists(st.sampled_from(["a.mp4", "b.mp4", "c/d.mp4"]), max_size=12))
def test_every_frame_is_in_one_sequence(clips: Sequence[str]) -> None:
    names = [FrameAddress(clip, 100 * place).name for place, clip in enumerate(clips)]
    order = FrameOrder.of(named(*names), fps=5)
    assert sorted(order.cursors.tolist()) == list(range(1, len(clips) + 1))
    assert len(order.starts) == len({*clips}) + 1 and order.starts[-1] == len(clips)
    for begin, end in zip(order.starts, order.starts[1:], strict=False):
        assert (np.diff(order.at_s[begin:end]) > 0).all()


def test_other_frames_are_another_run() -> None:
    first = [FrameAddress("a.mp4", 100 * n).name for n in range(3)]
    one, same, fewer = (FrameOrder.of(named(*n), 5) for n in (first, first, first[:2]))
    assert one.digest == same.digest != fewer.digest and len(one.digest) == 8


def test_answers_are_read_back_and_failures_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    log = AnswerLog(path)
    other = ASKED._replace(question="Is this a cat?")
    log.add([(ASKED, verdict()), (other, verdict(None, other.question, "the server is down"))])
    log.add([(ASKED._replace(row=3), verdict(None))])
    again = AnswerLog(path)
    assert again.known([ASKED]) == (verdict(),) == log.known([ASKED])
    assert again.known([ASKED._replace(row=3)]) == (verdict(None),), "an abstention is an answer"
    assert again.known([other]) is None and again.known([ASKED, other]) is None


@given(st.integers(0, 400))
def test_a_log_that_was_cut_short_loses_its_last_answer_only(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        rows = [ASKED._replace(row=row) for row in range(3)]
        AnswerLog(path).add([(asked, verdict()) for asked in rows])
        content = path.read_bytes()
        path.write_bytes(content[: max(len(content) - cut, 0)])
        log = AnswerLog(path)
        before = [log.known([asked]) is not None for asked in rows]
        assert before == sorted(before, reverse=True)
        log.add([(rows[2], verdict())])
        assert AnswerLog(path).known([rows[2]]) == (verdict(),)
