"""``grpc.health.v1.Health``, with ``List``, and what the verifier's answers say of it.

Names that can be asked for: "" and each service of ours, and ``VERIFIER`` where the server has one.
A verifier that is down does not stop the server: its boxes are unsure, and ``VERIFIER`` is
NOT_SERVING until a question is answered again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from secondlook_client.calls import retried, run
from secondlook_client.channel import ServerAccess
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.values import Answer

VERIFIER = "secondlook.verifier"
"""Name of the verifier in ``Check`` and ``List``."""
FAILURES = 3
"""Questions without an answer, one after the other, from which on the verifier counts as down:
single views can fail for their own sake."""

TRY_AGAIN_S = 30.0
"""After the last failure, models are given another chance."""
ASK_S = 4.0
"""For the answer of ``ask_health``: less than the usual time of a probe."""


def ask_health(address: str) -> dict[str, str]:
    """The status that the server at ``address`` tells for each name, such as ``SERVING``.

    Raises what a call of a client raises: ``Unavailable`` where no server answers.
    """
    channel = ServerAccess.given({}).channel(address)
    try:
        ask = health_pb2_grpc.HealthStub(channel).List
        attempts = Attempts(RetryPolicy(unavailable_s=0), ASK_S, address)
        answer = run(retried(attempts, ask, health_pb2.HealthListRequest()))
    finally:
        channel.close()
    name_of = health_pb2.HealthCheckResponse.ServingStatus.Name
    return {name: str(name_of(one.status)) for name, one in answer.statuses.items()}


class HealthServicer(health.aio.HealthServicer):
    """grpcio's servicer, which leaves ``List`` out of its asynchronous form."""

    async def List(  # noqa: N802 (gRPC's own spelling)
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        """The status of every name."""
        status = health_pb2.HealthCheckResponse
        return health_pb2.HealthListResponse(
            statuses={name: status(status=now) for name, now in self._server_status.items()}
        )


class FailureStreak:
    """Failures one after the other; from any one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.failures = 0
        """So many, up to now."""
        self._failed_at = 0.0

    def failed(self) -> None:
        """One more."""
        self.failures += 1
        self._failed_at = self._clock()

    def succeeded(self) -> None:
        """The end of the row."""
        self.failures = 0

    @property
    def away(self) -> bool:
        """Whether there are too many, and the last one is not long ago."""
        return self.failures >= FAILURES and self._clock() - self._failed_at < TRY_AGAIN_S


class VerifierHealth:
    """Sets the status of ``VERIFIER`` by the answers of the verifier."""

    def __init__(self, servicer: HealthServicer) -> None:
        """Made in the event loop of ``servicer``; the verifier counts as up."""
        self._servicer = servicer
        self._loop = asyncio.get_running_loop()
        self.streak = FailureStreak()
        """For readiness, which tries again after a while."""
        self._serving: bool | None = None
        self._telling: set[asyncio.Future[None]] = set()
        """Kept, as the loop itself holds on to no task."""
        self._set(True)

    def observe(self, answers: Sequence[Answer]) -> None:
        """The verifier gave these answers, in order; from any one thread at a time."""
        for answer in answers:
            (self.streak.failed if answer.error else self.streak.succeeded)()
        self._set(self.streak.failures < FAILURES)

    def _set(self, serving: bool) -> None:
        if serving is self._serving:
            return
        self._serving = serving
        status = health_pb2.HealthCheckResponse
        now = status.SERVING if serving else status.NOT_SERVING
        with suppress(RuntimeError):  # the loop has just been closed
            self._loop.call_soon_threadsafe(self._tell, now)

    def _tell(self, status: int) -> None:
        telling = asyncio.ensure_future(self._servicer.set(VERIFIER, status))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
