"""``ModelService`` alone over a store: for a command on the machine where the store is.

It loads no model and works on no job, so it may run beside a server of the same store.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager

import grpc

from secondlook.server.interceptors import CallInterceptor
from secondlook.server.metrics import Metrics
from secondlook.server.models import ModelServicer
from secondlook.server.own_thread import in_own_thread
from secondlook.store import Store
from secondlook_client.v1 import models_pb2_grpc


def models_alone(store: Store) -> AbstractContextManager[str]:
    """The address (on loopback) of a service that ends with the block; trains nothing."""
    return in_own_thread("models", lambda: _serving(store))


@asynccontextmanager
async def _serving(store: Store) -> AsyncIterator[str]:
    stopping = asyncio.Event()
    server = grpc.aio.server(interceptors=(CallInterceptor(Metrics(), stopping),))
    servicer = ModelServicer(store, None, stopping)
    models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stopping.set()
        await server.stop(0)
        servicer.close()
