"""When the client tries again, and what its errors are called."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook_client import errors
from secondlook_client.retry import Attempts, RetryPolicy


class Failed(grpc.RpcError):
    """A call that failed, as gRPC raises it."""

    def __init__(self, status, details="words", **trailing):
        self._status, self._details = status, details
        self._trailing = [(f"secondlook-{k.replace('_', '-')}", v) for k, v in trailing.items()]

    def code(self):
        return grpc.StatusCode[self._status]

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._trailing


def attempts(timeout_s=60.0, **policy):
    return Attempts(RetryPolicy(draw=lambda: 0.0, **policy), timeout_s, "host:1")


NEVER = [
    ("INVALID_ARGUMENT", "bad_image"),
    ("INVALID_ARGUMENT", "bad_ontology"),
    ("UNIMPLEMENTED", "not_supported"),
    ("FAILED_PRECONDITION", "missing_extra"),
    ("DEADLINE_EXCEEDED", "deadline_exceeded"),
    ("CANCELLED", "cancelled"),
    ("INTERNAL", "internal"),
]


@pytest.mark.parametrize(("status", "reason"), NEVER)
def test_what_would_fail_again_is_not_tried_again(status, reason):
    with pytest.raises(errors.SecondlookError, match="words") as caught:
        attempts().wait_s(Failed(status, reason=reason))
    assert caught.value.reason == reason


def test_waits_grow_up_to_the_longest():
    tries = attempts(first_s=0.1, factor=2, longest_s=1.0, unavailable_s=60)
    waits = [tries.wait_s(Failed("UNAVAILABLE")) for _ in range(8)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5])


def test_a_hint_is_honoured():
    tries = attempts(first_s=0.01)
    busy = Failed("RESOURCE_EXHAUSTED", reason="busy", retry_after_ms="2500")
    assert tries.wait_s(busy) == 2.5


def test_a_wait_that_would_outlast_the_call_is_not_begun():
    busy = Failed("RESOURCE_EXHAUSTED", reason="busy", retry_after_ms="2500")
    with pytest.raises(errors.Busy) as caught:
        attempts(timeout_s=2.0).wait_s(busy)
    assert caught.value.retry_after_s == 2.5


def test_a_call_that_a_stopping_server_dropped_is_tried_again():
    assert attempts(first_s=0.1).wait_s(Failed("CANCELLED")) == pytest.approx(0.05)


def test_patience_with_a_silent_server_ends_and_with_a_busy_one_does_not(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("secondlook_client.retry.time.monotonic", lambda: now[0])
    tries = attempts(timeout_s=1000, unavailable_s=10)
    tries.wait_s(Failed("UNAVAILABLE"))
    now[0] += 9
    tries.wait_s(Failed("UNAVAILABLE"))
    now[0] += 1
    with pytest.raises(errors.Unavailable, match="secondlook serve"):
        tries.wait_s(Failed("UNAVAILABLE"))
    tries = attempts(timeout_s=1000, unavailable_s=10)
    for _ in range(50):
        now[0] += 5
        tries.wait_s(Failed("RESOURCE_EXHAUSTED", reason="busy"))


@given(st.integers(1, 10**6), st.floats(0, 0.999))
def test_a_backoff_is_positive_and_bounded(failures, luck):
    policy = RetryPolicy(draw=lambda: luck)
    assert 0 < policy.backoff_s(failures) <= policy.longest_s


@given(st.sampled_from([s.name for s in grpc.StatusCode if s.name != "OK"]), st.text())
def test_every_status_has_a_typed_error_with_a_reason(status, words):
    for trailing in ({}, {"secondlook-reason": "anything", "secondlook-retry-after-ms": words}):
        error = errors.from_status(status, words, trailing, "host:1")
        assert type(error) is not errors.SecondlookError
        assert error.reason and str(error) is not None


def test_errors_of_grpc_itself_are_put_into_words():
    silent = errors.from_status("UNAVAILABLE", "refused", {}, "host:1")
    assert "host:1" in str(silent) and silent.reason == "unavailable"
    dropped = errors.from_status("CANCELLED", "CANCELLED", {}, "host:1")
    assert isinstance(dropped, errors.Unavailable) and "host:1" in str(dropped)
    words = "SERVER: Received message larger than max (2 vs. 1)"
    large = errors.from_status("RESOURCE_EXHAUSTED", words, {}, "host:1")
    assert isinstance(large, errors.MessageTooLarge) and large.reason == "message_too_large"
    other = errors.from_status("UNKNOWN", "x", {}, "host:1")
    assert isinstance(other, errors.ServerFailure) and other.reason == "internal"
