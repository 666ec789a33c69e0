"""A Ray cluster: connecting to it, what actors reserve there, and calls of them.

``ray_labeling`` labels the images of a job on it, ``ray_map`` calls a function on batches of other
values. Nothing here is imported unless ``--ray`` is given.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from secondlook.config.extras import missing_extra
from secondlook.core.version import installed_version
from secondlook_client.errors import BadSetting, SecondlookError, Unavailable

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
except ImportError as missing:
    raise missing_extra("--ray", "ray") from missing

START_S = 600.0
"""For the first actor with models to be placed and loaded; a cluster that grows takes minutes."""
ATTEMPTS = 3
"""To connect to ray://HOST:PORT."""
TELL_S = 15.0
"""After so long without an actor the driver says what it waits for."""
MODELS_PER_DECODER = 4
"""Actors with models on CPUs for each decoding actor: a model takes far longer than a decoder."""
DECODERS_PER_GPU = 4
DECODER_CPUS = 0.5
"""Of each decoding actor where models have GPUs."""
DRIVER_CPUS = 0.1
"""Share of a CPU that decoding actors have where the models have the CPUs."""
MADE_AGAIN = {"max_task_retries": -1}
"""Option of a call that Ray makes again as often as its actor dies."""
LOST_ALONE = 3
"""Actors that a value may end while it is alone with them, before it is given up."""


@dataclass(frozen=True)
class ClusterPlan:
    """Which cluster, and what each actor with models has of it."""

    address: str
    """``auto``, or ``ray://HOST:PORT``."""
    actors: int = 0
    """With models; 0: as many as fit."""
    gpus: float = 1.0
    """GPUs of each, where the cluster has any; below 1 several share one, 0 uses none."""
    cpus: float = 0.0
    """CPUs of each; 0: 1 beside a GPU, else nearly one."""


@dataclass(frozen=True)
class ActorShares:
    """How many actors there are, and what each reserves."""

    models: int
    gpus: float
    cpus: float
    decoders: int
    decoder_cpus: float


def shares_of(plan: ClusterPlan, cpus: float, gpus: float) -> ActorShares:
    """What ``plan`` means for a cluster with so many CPUs and GPUs."""
    if gpus and plan.gpus:
        models = plan.actors or max(1, int(gpus / plan.gpus))
        of_model = plan.cpus or 1.0
        fit = int((cpus - models * of_model) / DECODER_CPUS)
        decoders = max(1, min(DECODERS_PER_GPU * math.ceil(models * plan.gpus), fit))
        return ActorShares(models, plan.gpus, of_model, decoders, DECODER_CPUS)
    of_model = plan.cpus or 0.9
    models = plan.actors or max(1, int(cpus / (of_model + DRIVER_CPUS / MODELS_PER_DECODER)))
    decoders = math.ceil(models / MODELS_PER_DECODER)
    return ActorShares(models, 0.0, of_model, decoders, DRIVER_CPUS)


@dataclass(eq=False)
class RemoteActor:
    """An actor on the cluster, and what the driver knows of it."""

    handle: Any
    up: bool = False
    """Whether it takes calls, as far as is known."""
    load: int = 0
    """Calls that it has."""

    def end(self) -> None:
        """End it for good."""
        with suppress(RayError):  # the cluster may be gone
            ray.kill(self.handle)


def connect(address: str) -> bool:
    """Join the cluster at ``address``; False where this process has joined one already.

    Raises ``Unavailable`` where there is none.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for left in reversed(range(ATTEMPTS)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except ConnectionAbortedError as failure:  # a busy head starts a client's server too late
            if not left:
                said = str(failure).strip().rpartition("\n")[2]
                raise Unavailable(
                    f"the Ray cluster at '{address}' takes no driver: {said}"
                ) from failure
        except (ConnectionError, RuntimeError, ValueError) as failure:
            raise Unavailable(
                f"there is no Ray cluster at '{address}': start one with `ray start --head`, or "
                f"give its address as ray://HOST:10001 ({type(failure).__name__})"
            ) from failure
    return True


def least_busy(actors: Iterable[RemoteActor]) -> RemoteActor | None:
    """The one with the fewest calls of those that take some; None where none does."""
    return min((one for one in actors if one.up), key=lambda one: one.load, default=None)


def idle(actors: Iterable[RemoteActor]) -> RemoteActor | None:
    """One that takes calls and has none; None where there is no such."""
    return next((one for one in actors if one.up and not one.load), None)


class Cluster:
    """A connection to a cluster, and the actors that are started there; they end with it."""

    def __init__(self, plan: ClusterPlan) -> None:
        """Raises ``Unavailable`` where there is no cluster."""
        self._connected = connect(plan.address)
        total = ray.cluster_resources()
        self.shares = shares_of(plan, total.get("CPU", 1.0), total.get("GPU", 0.0))

    def close(self) -> None:
        """Leave the cluster, which ends the actors."""
        if self._connected:
            ray.shutdown()
            self._connected = False

    def start(self, kind: type, *arguments: Any, calls: int) -> RemoteActor:
        """An actor with models, of the class ``kind``; ``calls`` are made at a time."""
        options = {"num_cpus": self.shares.cpus, "num_gpus": self.shares.gpus}
        return self._started(kind, arguments, calls, options)

    def start_decoder(self, kind: type, *arguments: Any, calls: int) -> RemoteActor:
        """An actor without models."""
        return self._started(kind, arguments, calls, {"num_cpus": self.shares.decoder_cpus})

    def _started(
        self, kind: type, arguments: Sequence[Any], calls: int, options: dict[str, Any]
    ) -> RemoteActor:
        made: Any = ray.remote(kind).options(max_restarts=-1, max_concurrency=calls, **options)
        return RemoteActor(made.remote(*arguments))

    def put(self, value: Any) -> Any:
        """A reference to a value, which calls get instead of it."""
        return ray.put(value)

    def first_ready(self, actors: Sequence[RemoteActor], say: Callable[[str], None]) -> Any:
        """What ``ready`` gives of the first actor that is.

        ``say`` gets a line while it is waited for. Raises ``Unavailable`` where none is, and what
        ``ready`` raises.
        """
        shares = self.shares
        ready = [actor.handle.ready.remote() for actor in actors]
        asked_for = (
            f"{shares.models} actors of {shares.gpus:g} GPUs and {shares.cpus:g} CPUs load models"
        )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            done, _ = ray.wait(ready, num_returns=1, timeout=TELL_S)
            if done:
                return got(done[0])
            say(f"waiting for the cluster: {asked_for}")
        raise Unavailable(
            f"the cluster has no room for a model after {START_S:g} s: {asked_for}; give fewer "
            "--ray-gpus or --ray-cpus, or more machines"
        )


class MachineFacts(Protocol):
    """What a machine of the cluster says of itself; equal facts compute the same."""

    @property
    def version(self) -> str:
        """Of secondlook."""
        ...

    @property
    def models(self) -> str:
        """What it computes by, for people."""
        ...


def check_machine(found: MachineFacts, first: MachineFacts | None = None) -> None:
    """Raises ``BadSetting`` for another version than this one, and other facts than ``first``."""
    if found.version != installed_version():
        raise BadSetting(
            f"a machine of the cluster has secondlook {found.version}, this one "
            f"{installed_version()}; install the same on each"
        )
    if first and found != first:
        raise BadSetting(
            f"machines of the cluster load different models: {found.models} and {first.models}; "
            "give each the same files"
        )


def call(method: Any, *arguments: Any, retried: bool = False) -> Any:
    """The result of an actor's method. Raises as ``got``."""
    return got(method.options(**(MADE_AGAIN if retried else {})).remote(*arguments))


def got(reference: Any) -> Any:
    """The value of a reference; raises what the call raised, and ``Unavailable``."""
    try:
        return ray.get(reference)
    except RayError as failure:
        raise original(failure) from None


def future_of(call: Callable[[], Any]) -> Future[Any]:
    """What a call on the cluster will give; it has failed where none can be made any more."""
    try:
        future: Future[Any] = call().future()
    except Exception as failure:  # the connection is gone, which Ray tells in many ways
        future = Future()
        future.set_exception(failure)
    return future


def original(failure: BaseException) -> BaseException:
    """What was raised on the cluster; ``Unavailable`` where the cluster itself failed."""
    cause = getattr(failure, "cause", None)
    if isinstance(failure, RayTaskError) and cause and not isinstance(cause, RayError):
        return cause
    return unavailable(failure)


def is_lost(failure: BaseException) -> bool:
    """Whether a call ended with its process or machine, rather than by itself."""
    if isinstance(failure, RayActorError):
        return True
    return isinstance(failure, RayError) and not isinstance(failure, RayTaskError)


def unavailable(cause: BaseException) -> SecondlookError:
    """``cause`` if it is an error of ours, else that the cluster does not answer."""
    if isinstance(cause, SecondlookError):
        return cause
    return Unavailable(f"the Ray cluster does not answer ({type(cause).__name__})")
