"""One service alone on a private socket, for a command that needs no other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import grpc

from secondlook.server.interceptors import CallInterceptor
from secondlook.server.loop_thread import in_own_thread
from secondlook.server.metrics import Metrics
from secondlook.server.own_socket import OwnSocket

Register = Callable[[Any, asyncio.Event], Callable[[], None]]
"""Adds a servicer to a server that has not started; the event says when the server stops. Gives
what closes the servicer."""


def running_service(
    name: str, register: Register, options: Sequence[tuple[str, Any]] = ()
) -> AbstractContextManager[str]:
    """The service that ``register`` adds, until the block ends; gives its address.

    ``name`` is that of its thread, ``options`` are those of the gRPC server.
    """
    return in_own_thread(name, lambda: _serving(register, options))


@asynccontextmanager
async def _serving(register: Register, options: Sequence[tuple[str, Any]]) -> AsyncIterator[str]:
    stopping = asyncio.Event()
    interceptors = (CallInterceptor(Metrics(), stopping),)
    server = grpc.aio.server(interceptors=interceptors, options=tuple(options))
    close = register(server, stopping)
    socket = OwnSocket()
    server.add_insecure_port(socket.address)
    await server.start()
    try:
        yield socket.address
    finally:
        stopping.set()
        await server.stop(0)
        socket.close()
        close()
