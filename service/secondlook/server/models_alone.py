"""``ModelService`` alone over a store: for a command on the machine where the store is.

It loads no model and works on no job, so it may run beside a server of the same store.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import grpc

from secondlook.server.interceptors import CallInterceptor
from secondlook.server.metrics import Metrics
from secondlook.server.models import ModelServicer
from secondlook.store import Store
from secondlook_client.v1 import models_pb2_grpc


@contextmanager
def models_alone(store: Store) -> Iterator[str]:
    """The address (on loopback) of a service that ends with the block; trains nothing."""
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        done = asyncio.Event()
        try:
            server = grpc.aio.server(interceptors=(CallInterceptor(Metrics(), done),))
            servicer = ModelServicer(store, None, done)
            models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
        except BaseException as failure:
            ready.set_exception(failure)
            return
        ready.set_result((f"127.0.0.1:{port}", asyncio.get_running_loop(), done))
        await done.wait()
        await server.stop(0)
        servicer.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="models", daemon=True)
    thread.start()
    address, loop, done = ready.result()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
