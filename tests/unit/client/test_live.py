"""The bookkeeping of live streams, driven at random without a network."""

import threading
import time
from collections import Counter

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook_client import LiveOptions, RetryPolicy, errors
from secondlook_client.live import FrameQueue, LiveFrame, ReconnectPolicy
from secondlook_client.stream import LiveStream
from secondlook_client.v1 import labeling_pb2 as pb

steps = st.lists(
    st.sampled_from(["offer", "take", "label", "fail", "drop", "again", "lost", "too_large"]),
    max_size=80,
)


def answer(sequence, kind):
    if kind == "label":
        return pb.FrameAnswer(sequence=sequence, labelled=pb.Labelled(name="x"))
    if kind == "fail":
        failure = pb.FrameFailure(reason="bad_image", message="no")
        return pb.FrameAnswer(sequence=sequence, failure=failure)
    return pb.FrameAnswer(sequence=sequence, dropped=pb.FrameDropped(reason=2))


@given(steps, st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_frame_leaves_once_and_bounds_hold(steps, pending, under_way, rng):
    book = FrameQueue(LiveOptions(max_pending=pending, max_in_flight=under_way))
    offered, reports, sent, flying = 0, [], Counter(), []
    for step in steps:
        if step == "offer":
            frame = LiveFrame(offered, f"k{offered}", "", bytes(rng.randrange(9)))
            reports += book.offer(frame, connected=rng.random() < 0.5)
            offered += 1
        elif step == "take":
            if frame := book.take():
                sent[frame.sequence] += 1
                flying.append(frame.sequence)
        elif step == "lost":
            reports += book.lost(errors.Unavailable("cut"))
            flying = []
        elif step == "too_large":
            reports += book.lost(errors.MessageTooLarge("too much"))
            flying = []
        elif step == "again" and reports:
            assert book.answered(answer(reports[-1].sequence, "label")) == []
        elif flying and step in ("label", "fail", "drop"):
            reports += book.answered(answer(flying.pop(0), step))
        assert book.waiting <= pending and len(flying) <= under_way
    reports += book.give_up(None)
    assert book.idle
    assert Counter(r.sequence for r in reports) == Counter(range(offered))
    assert all(r.key == f"k{r.sequence}" for r in reports)
    assert all(sum(map(bool, (r.result, r.error, r.dropped))) == 1 for r in reports)
    assert max(sent.values(), default=0) <= 2  # sent, and sent once more after a break


def test_after_a_break_the_newest_are_sent_again_in_order():
    book = FrameQueue(LiveOptions(max_pending=2, max_in_flight=3))
    for n in range(3):
        book.offer(LiveFrame(n, None, "", b""), connected=True)
        book.take()
    (dropped,) = book.lost(errors.Unavailable("cut"))
    assert (dropped.sequence, dropped.dropped) == (0, "connection_lost")
    assert [book.take().sequence, book.take().sequence] == [1, 2]
    lost = book.lost(errors.Unavailable("cut"))
    assert sorted(r.sequence for r in lost) == [1, 2] and book.idle


def test_of_the_frames_under_way_the_largest_is_the_one_too_large():
    book = FrameQueue(LiveOptions(max_pending=9, max_in_flight=9))
    for n, size in enumerate([5, 50, 7]):
        book.offer(LiveFrame(n, None, "", bytes(size)), connected=True)
        book.take()
    (failed,) = book.lost(errors.MessageTooLarge("too much"))
    assert failed.sequence == 1 and isinstance(failed.error, errors.MessageTooLarge)
    assert book.waiting == 2


def test_rules_for_opening_again():
    rules = ReconnectPolicy(RetryPolicy(draw=lambda: 0.0, first_s=0.1, unavailable_s=0))
    refused = [errors.BadOntology("x"), errors.NotSupported("x"), errors.NotReady("x")]
    assert all(rules.wait_s(cause, finished=False) is None for cause in refused)
    busy = errors.from_status("RESOURCE_EXHAUSTED", "x", {}, "host:1")  # without a hint
    passing = [None, errors.Unavailable("x"), busy, errors.MessageTooLarge("x")]
    assert [rules.wait_s(cause, finished=False) for cause in passing] == pytest.approx(
        [0.05, 0.1, 0.2, 0.4]
    )
    full = errors.Busy("x", retry_after_s=5.0)
    assert rules.wait_s(full, finished=False) == 5.0
    rules.frame_answered()
    assert rules.wait_s(None, finished=False) == pytest.approx(0.05)
    assert rules.wait_s(None, finished=True) is None


@pytest.mark.parametrize("field", ["max_pending", "max_in_flight", "server_pending", "max_unread"])
def test_options_of_nothing_are_refused(field):
    with pytest.raises(errors.InvalidInput, match=field):
        LiveOptions(**{field: 0})


class Refusing(grpc.RpcError):
    """A stream that reads whatever is sent and never says that it is open."""

    def __init__(self, requests, read):
        self._over = False

        def pull():
            for request in requests:
                if self._over:
                    return
                read.append(request.WhichOneof("message"))

        threading.Thread(target=pull, daemon=True).start()

    def __iter__(self):
        time.sleep(0.05)
        self._over = True
        raise self

    def cancel(self):
        """As a call has it."""

    def code(self):
        """As a call has it."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        """As a call has it."""
        return "refused"

    def trailing_metadata(self):
        """As a call has it."""
        return ()


def test_only_an_accepted_stream_is_given_frames():
    read = []
    policy = RetryPolicy(first_s=0.01, longest_s=0.02)
    opening = pb.StreamOpening()
    stream = LiveStream(lambda r: Refusing(r, read), opening, LiveOptions(), policy, "host:1")
    stream.send(b"x")
    ends = time.monotonic() + 10
    while len(read) < 4 and time.monotonic() < ends:
        time.sleep(0.01)
    assert set(read) == {"opening"} and len(read) >= 4
    assert stream.ready() == []
    stream.close()
    assert [report.dropped for report in stream.ready()] == ["closed"]
