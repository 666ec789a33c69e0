"""Calls as plans: what is sent, tried again and answered, written once for both clients.

A plan is a generator that yields steps and gets back what each of them found; how to wait is left
to whoever runs it. ``run`` and ``iterate`` wait in the calling thread, ``run_async`` and
``iterate_async`` in an event loop, and ``many`` runs a number of plans at a time. A method that is
decorated with ``Unary`` or ``Streaming`` is written as a plan; its caller sees a plain method on a
``Blocking`` owner, and a coroutine or asynchronous iterator on an ``Awaiting`` one.
"""

import asyncio
import functools
import math
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import grpc

from secondlook_client.images import ImageInput, image_bytes
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.tracing import client_span

P = ParamSpec("P")
T = TypeVar("T")

END = object()
"""What ``Next`` finds at the end of a stream."""


@dataclass(frozen=True, slots=True)
class Send:
    """A unary call; finds its answer, or raises ``grpc.RpcError``."""

    method: Any
    request: Any
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Next:
    """The next response of a streaming call, or ``END``; or raises ``grpc.RpcError``."""

    call: Any


@dataclass(frozen=True, slots=True)
class Load:
    """The bytes of an image; raises ``UnreadableFile`` and ``BadImage``."""

    image: ImageInput


@dataclass(frozen=True, slots=True)
class Sleep:
    """A wait before the next try."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """A value of a stream, for whoever iterates over it."""

    value: T


Step = Send | Next | Load | Sleep
Plan = Generator[Step, Any, T]
"""Ends with the answer."""
StreamPlan = Generator[Step | Emit[T], Any, None]
"""Emits values until it ends."""


def retried(attempts: Attempts, method: Any, request: Any) -> Plan[Any]:
    """A unary call, tried again as ``attempts`` allow. Raises the typed error at the end."""
    while True:
        try:
            return (yield Send(method, request, attempts.left_s()))
        except grpc.RpcError as failed:
            wait_s = attempts.wait_s(failed)
        yield Sleep(wait_s)


def resumed(
    start: Callable[[], Any],
    attempts: Callable[[], Attempts],
    *,
    read: Callable[[Any], Iterable[Any]] = lambda response: (response,),
    done: Callable[[], bool] = lambda: False,
) -> StreamPlan[Any]:
    """Emits what ``read`` makes of each response of a stream, started again where it breaks.

    ``start`` begins a call behind what was used; ``attempts`` bounds the tries since the last
    response was. ``done`` keeps it from another start when nothing is left to ask for.
    """
    tries = attempts()
    while not done():
        call = start()
        try:
            while (response := (yield Next(call))) is not END:
                for value in read(response):
                    yield Emit(value)
                tries = attempts()
            return
        except grpc.RpcError as failed:
            wait_s = tries.wait_s(failed)
        finally:
            call.cancel()
        yield Sleep(wait_s)


def run(plan: Plan[T]) -> T:
    """The plan's answer, waited for in this thread."""
    try:
        step = next(plan)
        while True:
            step = _advance(plan, *_outcome(step))
    except StopIteration as done:
        answer: T = done.value
        return answer
    finally:
        plan.close()


def iterate(plan: StreamPlan[T]) -> Generator[T, None, None]:
    """What the plan emits; leaving the loop ends its call."""
    try:
        step = next(plan)
        while True:
            if isinstance(step, Emit):
                yield step.value
            step = _advance(plan, *_outcome(step))
    except StopIteration:
        return
    finally:
        plan.close()


async def run_async(plan: Plan[T]) -> T:
    """The plan's answer, waited for in the running event loop."""
    try:
        step = next(plan)
        while True:
            step = _advance(plan, *await _outcome_async(step))
    except StopIteration as done:
        answer: T = done.value
        return answer
    finally:
        plan.close()


async def iterate_async(plan: StreamPlan[T]) -> AsyncIterator[T]:
    """What the plan emits; closing the iterator ends its call."""
    try:
        step = next(plan)
        while True:
            if isinstance(step, Emit):
                yield step.value
            step = _advance(plan, *await _outcome_async(step))
    except StopIteration:
        return
    finally:
        plan.close()


def _advance(plan: Generator[T, Any, Any], found: Any, failure: Exception | None) -> T:
    """The step after this outcome; ``StopIteration`` when there is none."""
    return plan.send(found) if failure is None else plan.throw(failure)


def _outcome(step: Step | Emit[Any]) -> tuple[Any, Exception | None]:
    found = None
    try:
        match step:
            case Send():
                with client_span(_name(step.method)) as headers:
                    found = step.method(step.request, timeout=step.timeout_s, **_metadata(headers))
            case Next():
                found = next(step.call, END)
            case Load():
                found = image_bytes(step.image)
            case Sleep():
                time.sleep(step.seconds)
    except Exception as failure:
        return None, failure
    return found, None


async def _outcome_async(step: Step | Emit[Any]) -> tuple[Any, Exception | None]:
    found = None
    try:
        match step:
            case Send():
                with client_span(_name(step.method)) as headers:
                    sent = step.method(step.request, timeout=step.timeout_s, **_metadata(headers))
                    found = await sent
            case Next():
                found = await step.call.read()
                found = END if found is grpc.aio.EOF else found
            case Load() if isinstance(step.image, bytes):
                found = step.image
            case Load():  # a disk may be slow, and encoding an array takes milliseconds
                found = await asyncio.to_thread(image_bytes, step.image)
            case Sleep():
                await asyncio.sleep(step.seconds)
    except Exception as failure:
        return None, failure
    return found, None


def _name(method: Any) -> str:
    return getattr(method, "name", "call")


def _metadata(headers: Mapping[str, str]) -> dict[str, tuple[tuple[str, str], ...]]:
    return {"metadata": tuple(headers.items())} if headers else {}


class Connection:
    """What the calls of one client share: its channel, its retry policy, the server's address."""

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        self._channel = channel
        self._retry = retry
        self.address = address

    def _attempts(self, timeout_s: float = math.inf) -> Attempts:
        return Attempts(self._retry, timeout_s, self.address)

    def _answer(self, method: Any, request: Any, timeout_s: float) -> Plan[Any]:
        return retried(self._attempts(timeout_s), method, request)

    def _listed(
        self, method: Any, request: Any, timeout_s: float, read: Callable[[Any], Iterable[T]]
    ) -> StreamPlan[T]:
        """What ``read`` finds in each page of a list, from the one that ``request`` asks for."""
        while True:
            page = yield from self._answer(method, request, timeout_s)
            for found in read(page):
                yield Emit(found)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


class Blocking:
    """Marks an owner whose plans run in the calling thread."""


class Awaiting:
    """Marks an owner whose plans run in an event loop."""


class BlockingConnection(Connection, Blocking):
    """A connection for methods that are not written as plans."""

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        return run(self._answer(method, request, timeout_s))

    def _responses(
        self,
        start: Callable[[], Any],
        silence_s: float = math.inf,
        done: Callable[[], bool] = lambda: False,
    ) -> Generator[Any, None, None]:
        """``resumed``, given up after ``silence_s`` of silence; closing it ends the call."""
        return iterate(resumed(start, lambda: self._attempts(silence_s), done=done))


class Unary(Generic[P, T]):
    """A method written as a plan with one answer."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[T]]) -> None:
        self._plan = plan
        functools.update_wrapper(self, plan)  # type: ignore[arg-type]

    @overload
    def __get__(self, owner: Blocking, kind: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, owner: None, kind: Any = None) -> "Unary[P, T]": ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        """The method as the owner's kind of client has it."""
        return self if owner is None else _bound(self._plan, owner, run, run_async)


class Streaming(Generic[P, T]):
    """A method written as a plan that emits values."""

    def __init__(self, plan: Callable[Concatenate[Any, P], StreamPlan[T]]) -> None:
        self._plan = plan
        functools.update_wrapper(self, plan)  # type: ignore[arg-type]

    @overload
    def __get__(self, owner: Blocking, kind: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, owner: None, kind: Any = None) -> "Streaming[P, T]": ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        """The method as the owner's kind of client has it."""
        return self if owner is None else _bound(self._plan, owner, iterate, iterate_async)


def _bound(
    plan: Callable[..., Any], owner: Any, blocking: Callable[..., Any], awaiting: Callable[..., Any]
) -> Callable[..., Any]:
    drive = blocking if isinstance(owner, Blocking) else awaiting

    @functools.wraps(plan)
    def method(*arguments: Any, **named: Any) -> Any:
        return drive(plan(owner, *arguments, **named))

    return method
