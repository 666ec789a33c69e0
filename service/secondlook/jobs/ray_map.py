"""Calls a function on batches of values on the machines of a Ray cluster.

Actors hold the function with what it needs, such as a model. What the values are, and where results
are kept, is for the caller to say::

    cluster = RayMap(plan, opening, print)
    for result in cluster.map(batches, lost):
        ...

An actor has one batch at a time, and gets the next once the caller has come back for more: what it
kept by then is never computed again.

A call whose actor died is made again, each value of its batch alone, since one of them may be the
cause. One that ends ``LOST_ALONE`` actors is given up.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from secondlook.jobs.ray_actors import MapActor, MapFacts, Opening
from secondlook.jobs.ray_cluster import (
    LOST_ALONE,
    MADE_AGAIN,
    Cluster,
    ClusterPlan,
    RemoteActor,
    check_machine,
    future_of,
    idle,
    is_lost,
    original,
)

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Call(Generic[Value]):
    """Values that an actor has; none where it was asked whether it is ready."""

    actor: RemoteActor
    values: Sequence[Value] = ()
    deaths: int = 0
    """Actors that ended while they had these values alone."""


_Calls = dict[Future[Any], _Call[Value]]


class RayMap(Generic[Value, Result]):
    """A function on batches of values, on a cluster."""

    def __init__(
        self, plan: ClusterPlan, opening: Opening[Value, Result], say: Callable[[str], None]
    ) -> None:
        """Connect, and start actors that open the function; the first is waited for.

        ``say`` gets a line while the cluster is waited for. Raises ``Unavailable`` where there is
        no cluster or no room on it, and what opening the function raises.
        """
        self._cluster = Cluster(plan)
        try:
            self._actors = [
                self._cluster.start(MapActor, opening, calls=1)
                for _ in range(self._cluster.shares.models)
            ]
            self.facts: MapFacts = self._cluster.first_ready(self._actors, say)[0]
            """Of the machine that was ready first; others must have the same."""
            check_machine(self.facts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, which ends the actors."""
        self._cluster.close()

    def map(
        self, batches: Iterable[Sequence[Value]], lost: Callable[[Value], Result]
    ) -> Iterator[Result]:
        """The result of each batch, as they come; a batch is taken once an actor has room for it.

        A value that was given up has the result ``lost``. Raises what the function raises,
        ``BadSetting`` for a machine with another version or model, and ``Unavailable`` once the
        cluster is gone.
        """
        source, suspects = iter(batches), deque[_Call[Value]]()
        calls: _Calls[Value] = {}
        for actor in self._actors:
            self._await(actor, calls)
        while True:
            while call := self._next(source, suspects):
                calls[future_of(partial(call.actor.handle.call.remote, call.values))] = call
            # Beside an actor that has nothing to do nothing is left to be sent.
            if any(one.up for one in self._actors) and not any(one.load for one in self._actors):
                return
            for ended in wait(calls, return_when=FIRST_COMPLETED).done:
                call = calls.pop(ended)
                call.actor.load -= bool(call.values)
                failure = ended.exception()
                if failure is None:
                    facts, result = ended.result()
                    check_machine(facts, self.facts)
                    if call.values:
                        yield result
                    else:
                        call.actor.up = True
                elif call.values and is_lost(failure):
                    if call.actor.up:
                        self._await(call.actor, calls)
                    yield from self._lose(call, suspects, lost)
                else:
                    raise original(failure)

    def _await(self, actor: RemoteActor, calls: _Calls[Value]) -> None:
        """Send nothing to an actor until it answers; Ray starts one that died again."""
        actor.up = False
        ready = actor.handle.ready.options(**MADE_AGAIN).remote
        calls[future_of(ready)] = _Call(actor)

    def _next(
        self, source: Iterator[Sequence[Value]], suspects: deque[_Call[Value]]
    ) -> _Call[Value] | None:
        """What is to be sent now, and to whom."""
        actor = idle(self._actors)
        if actor is None:
            return None
        if suspects:
            call = replace(suspects.popleft(), actor=actor)
        elif values := next(source, None):
            call = _Call(actor, values)
        else:
            return None
        actor.load += 1
        return call

    def _lose(
        self, call: _Call[Value], suspects: deque[_Call[Value]], lost: Callable[[Value], Result]
    ) -> Iterator[Result]:
        """A call was lost: its values are sent again, or given up."""
        deaths = call.deaths + (len(call.values) == 1)
        if deaths == LOST_ALONE:
            yield lost(call.values[0])
            return
        log.warning("%d values are sent again: a worker of the cluster died", len(call.values))
        suspects += [_Call(call.actor, [one], deaths) for one in call.values]
