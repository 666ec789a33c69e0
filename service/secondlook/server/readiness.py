"""Whether what calls need is there: told by health, by metrics, and in the log.

    name                     NOT_SERVING while
    "secondlook.ready"       the store or the models are away: for a readiness probe
    "secondlook.store"       the store is away, and with it the services that need it
    "secondlook.standby"     commits wait for a synchronous standby of PostgreSQL, and none comes
    LabelingService,         the models fail
      SegmentationService
    ""                       never, until the server stops: for a liveness probe

The store is asked every few seconds, as by a call that stores an image. Models are judged by the
calls that they fail. A server that is not ready may get no calls, and would never learn that its
models are back: half a minute after the last failure it lets itself be tried again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from grpc_health.v1 import health_pb2

from secondlook.server.health import HealthServicer
from secondlook.server.loop_thread import in_daemon_thread
from secondlook.server.metrics import Metrics
from secondlook.store import Store

log = logging.getLogger(__name__)

READY, STORE, STANDBY = "secondlook.ready", "secondlook.store", "secondlook.standby"
"""Names in health ``Check``, ``Watch`` and ``List``; the last one with PostgreSQL only."""
PROBE_S, PROBE_AWAY_S = 5.0, 1.0
"""Between two probes of the store, while it is there and while it is away."""
PROBE_TIMEOUT_S = 10.0
"""A disk or database that answers no sooner is away."""


class Readiness:
    """Keeps the health of one server up to date, on its event loop, from ``start`` to ``close``."""

    def __init__(
        self,
        health: HealthServicer,
        metrics: Metrics,
        store: Store | None,
        models_away: Callable[[], bool],
        services: tuple[Sequence[str], Sequence[str]],
    ) -> None:
        """``services`` are those that need the models, and those that need the store."""
        self._health = health
        self._metrics = metrics
        self._store = store
        self._models_away = models_away
        self._of_models, self._of_store = services
        self._told: dict[str, bool] = {}
        self._away: dict[str, str] = {}
        """Why a part of the store is away; empty while it is there."""
        if store is not None:
            self._away["store"] = ""
            if store.database.dialect == "postgresql":
                self._away["standby"] = ""
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Tell that all is there, and watch."""
        await self._tell()
        self._watching = [asyncio.ensure_future(self._watch())]
        if self._store is not None:
            self._watching.append(asyncio.ensure_future(self._probe_store(self._store)))

    async def close(self) -> None:
        """Watch no more."""
        for task in self._watching:
            task.cancel()
        for task in self._watching:
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_AWAY_S)
            await self._tell()

    async def _probe_store(self, store: Store) -> None:
        while True:
            probe = in_daemon_thread(store.probe)
            try:
                # wait_for of Python 3.11 loses a cancellation that comes with the outcome.
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await asyncio.shield(probe)
                self._away = dict.fromkeys(self._away, "")
            except TimeoutError:
                self._away["store"] = f"no answer within {PROBE_TIMEOUT_S:g} s"
                if "standby" in self._away:
                    self._away["standby"] = await _missing_standby(store)
                await self._tell()
                with suppress(Exception):
                    await probe  # no second one may hang beside it
                continue
            except Exception as failure:  # whatever it is, the store cannot be used
                self._away["store"] = str(failure)
            await self._tell()
            await asyncio.sleep(PROBE_AWAY_S if self._away["store"] else PROBE_S)

    async def _tell(self) -> None:
        parts = {"models": not self._models_away()}
        parts |= {part: not why for part, why in self._away.items()}
        for part, there in parts.items():
            self._metrics.part_is_ready(part, there)
            if self._told.get(part, True) != there:
                why = f": {self._away[part]}" if self._away.get(part) else ""
                level = logging.INFO if there else logging.ERROR
                log.log(level, "the %s %s%s", part, "is back" if there else "is away", why)
            self._told[part] = there
        names = {
            **dict.fromkeys(self._of_models, parts["models"]),
            **dict.fromkeys(self._of_store, parts.get("store", True)),
            **{_NAMES[part]: parts[part] for part in self._away},
            READY: all(parts.values()),
        }
        for name, there in names.items():
            if self._told.get(name) != there:
                self._told[name] = there
                await self._health.set(name, _STATUS[there])


async def _missing_standby(store: Store) -> str:
    """That a synchronous standby is waited for; empty where it is something else, or unknown."""
    asked = in_daemon_thread(store.database.waits_for_standby)
    with suppress(Exception):  # whatever fails, the database is away as a whole
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if await asyncio.shield(asked):
                return "commits wait for a synchronous standby, and none confirms them"
    return ""


_NAMES = {"store": STORE, "standby": STANDBY}
"""Of the parts of the store."""
_STATUS = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}
