"""When a failed call is tried again. What is sent again is stored once, so any call may be."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from secondlook_client.errors import Busy, SecondlookError, Unavailable, from_status


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded by the call's own time.

    A server that is busy is tried until the call's time is over, at the pace that it hints. One
    that does not answer at all is tried for ``unavailable_s`` seconds. Nothing else is retried.
    """

    first_s: float = 0.1
    factor: float = 2.0
    longest_s: float = 5.0
    """No single wait is longer, seconds; a server's hint may be."""
    unavailable_s: float = 10.0
    """0 gives up at once."""
    draw: Callable[[], float] = random.random
    """A number in [0, 1) that spreads clients which failed together."""

    def backoff_s(self, failures: int) -> float:
        """How long to wait after that many failures in a row (from 1), seconds."""
        # The exponent is bounded: a stream may fail for weeks, and floats overflow.
        ceiling = min(self.first_s * self.factor ** min(failures - 1, 32), self.longest_s)
        return ceiling * (0.5 + 0.5 * self.draw())


class Attempts:
    """The tries of one call, from its start to its answer or its last failure."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, address: str) -> None:
        """``timeout_s`` bounds all tries together."""
        self._policy = policy
        self._ends = time.monotonic() + timeout_s
        self._address = address
        self._failures = 0
        self._unavailable_since: float | None = None

    def left_s(self) -> float:
        """For the next try; never 0, which gRPC takes for no limit in places."""
        return max(self._ends - time.monotonic(), 0.001)

    def wait_s(self, failed: grpc.RpcError) -> float:
        """How long to wait before the next try. Raises the typed error when there is none."""
        failure = typed(failed, self._address)
        self._failures += 1
        wait = self._wait_s(failure)
        if wait is None or time.monotonic() + wait >= self._ends:
            raise failure from failed
        return wait

    def _wait_s(self, failure: SecondlookError) -> float | None:
        if not isinstance(failure, Busy | Unavailable):
            return None
        if isinstance(failure, Unavailable):
            now = time.monotonic()
            since = self._unavailable_since = self._unavailable_since or now
            if now - since >= self._policy.unavailable_s:
                return None
        else:
            self._unavailable_since = None
        backoff = self._policy.backoff_s(self._failures)
        hint = failure.retry_after_s
        # A hint is the same for everybody who was refused; half as much again spreads them.
        return backoff if hint is None else max(hint * (1 + 0.5 * self._policy.draw()), backoff)


def typed(failed: grpc.RpcError, address: str) -> SecondlookError:
    """gRPC's error as one of ours."""
    call: Any = failed  # every RpcError that a call raises is also that call
    trailing = {key: value for key, value in call.trailing_metadata() or () if _is_text(value)}
    return from_status(call.code().name, call.details() or "", trailing, address)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
