"""The wiring: an engine behind a gRPC server, in this process.

    async with Server(engine, ontology) as server:       # inside an event loop
        print(server.address)

    with running_server(engine, ontology) as server:     # from plain code; a thread runs the loop
        print(server.address)

    serve(engine, ontology)                              # all of a process, until told to stop

The engine is the caller's: close it after the server. There is neither TLS nor a login yet, so
the server listens on loopback unless told otherwise and warns when it does not.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from secondlook.core.errors import BadSetting
from secondlook.core.images import DEFAULT_LIMITS, ImageLimits
from secondlook.core.ontology import Ontology
from secondlook.jobs.training import Trainer
from secondlook.labeling.engine import Engine
from secondlook.server.datasets import DatasetServicer
from secondlook.server.interceptors import CallInterceptor
from secondlook.server.jobs import JobServicer, Keeping
from secondlook.server.labeling import MAX_STREAMS, Intake, LabelingServicer
from secondlook.server.loop_thread import in_own_thread
from secondlook.server.metrics import Metrics, MetricsEndpoint
from secondlook.server.models import ModelServicer
from secondlook.server.reflection import PoolWithMethods
from secondlook.store import Store
from secondlook_client.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    labeling_pb2,
    labeling_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)

# Where a server listens, what it takes and what it may read.

MESSAGE_ROOM = 4 * 2**20
"""Bytes of a message besides its image: the longest ontology has fewer."""
LARGEST_MESSAGE = 2**31 - 1
"""gRPC counts in 32 bits."""


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens and what it takes."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    metrics_port: int | None = None
    """For Prometheus, on the same host; None is off, 0 picks a free one."""
    image_limits: ImageLimits = DEFAULT_LIMITS
    decode_threads: int = max(2, min(8, os.cpu_count() or 2))
    grace_s: float = 30.0
    """How long stopping waits for what was accepted."""
    roots: tuple[Path, ...] = ()
    """Folders that jobs may read images from."""
    trainings: Path | None = None
    """Folder that students are trained in; None: none are trained here."""
    trainings_at_once: int = 1

    @property
    def max_message_bytes(self) -> int:
        """The largest image allowed, and room for the rest of a request."""
        return min(self.image_limits.max_bytes + MESSAGE_ROOM, LARGEST_MESSAGE)


# Where a server listens, in words.


def joined(host: str, port: int) -> str:
    """``host:port``, with brackets where they are needed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_here(host: str, port: int) -> str:
    """Where this machine itself reaches a server that listens on ``host``."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return joined(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def why_no_port(host: str, port: int) -> str:
    """Why one cannot listen there: gRPC does not say; asking the system again does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    why = "the address cannot be used"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as cause:
        why = (cause.strerror or str(cause)).lower()
    return (
        f"cannot listen on {joined(host, port)}: {why}. Stop the other program, or choose "
        "another port (0 picks a free one) or host"
    )


log = logging.getLogger(__name__)

SERVICES = tuple(
    service.full_name
    for file in (labeling_pb2, jobs_pb2, datasets_pb2, models_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
CALLS_BESIDES = 2 * MAX_STREAMS
"""Streams, health watchers and the like that may run beside single images."""
LAST_WORDS_S = 0.5
"""For calls that are not ours (health watchers) to hear that the server has gone."""


class Server:
    """One gRPC server on the running event loop; an async context manager."""

    def __init__(
        self,
        engine: Engine,
        ontology: Ontology | None = None,
        options: ServerOptions | None = None,
        metrics: Metrics | None = None,
        store: Store | None = None,
    ) -> None:
        """``ontology`` serves requests that bring none.

        Give the ``metrics`` whose ``batch_done`` the engine observes, to count batches too. With
        a ``store`` (the caller's, like the engine) there are jobs and captured streams.
        """
        self.options = options or ServerOptions()
        self.metrics = metrics or Metrics()
        self.address = ""
        """``host:port``, once it listens."""
        self.metrics_port: int | None = None
        """Once it listens, and only when asked for."""
        self._engine = engine
        self._ontology = ontology
        self._stopping = asyncio.Event()
        self._calls = CallInterceptor(self.metrics, self._stopping)
        self._intake = Intake(engine, self.options.image_limits, self.options.decode_threads)
        self._keeping = (
            Keeping(store, engine, self.options.image_limits, self.options.roots) if store else None
        )
        self._jobs = JobServicer(
            self._keeping, ontology, engine.settings, self.options.roots, self._stopping
        )
        self._datasets = DatasetServicer(store, self._stopping)
        self._trainer = _trainer(store, self.options)
        self._models = ModelServicer(store, self._trainer, self._stopping)
        self._health = health.aio.HealthServicer()
        self._metrics_endpoint: MetricsEndpoint | None = None
        self._grpc = self._built()

    async def start(self) -> None:
        """Listen and serve. Raises ``BadSetting`` when the port cannot be had."""
        options = self.options
        try:
            port = self._grpc.add_insecure_port(joined(options.host, options.port))
        except RuntimeError as cause:
            raise BadSetting(why_no_port(options.host, options.port)) from cause
        if options.metrics_port is not None:
            try:
                self._metrics_endpoint = self.metrics.serve(options.host, options.metrics_port)
            except BadSetting:
                await self._grpc.stop(0)  # gives the port back
                raise
            self.metrics_port = self._metrics_endpoint.port
        if not is_loopback(options.host):
            log.warning("open to the network without TLS or login", extra={"host": options.host})
        await self._grpc.start()
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        if self._keeping is not None:
            self._keeping.runner.start()
        if self._trainer is not None:
            await asyncio.to_thread(self._trainer.start, reachable_here(options.host, port))
        self.address = joined(options.host, port)
        log.info("serving", extra={"address": self.address, "metrics_port": self.metrics_port})

    def finish_jobs(self) -> None:
        """Begin no more images of jobs, and keep those under way; from any thread."""
        if self._keeping is not None:
            self._keeping.runner.close()

    async def stop(self, grace_s: float | None = None) -> None:
        """Say NOT_SERVING, refuse new calls, finish the accepted ones, then stop listening.

        What is not finished after ``grace_s`` (default: the options') is cancelled.
        """
        if self._stopping.is_set():
            return
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        if self._trainer is not None:
            await asyncio.to_thread(self._trainer.close)
        if self._keeping is not None:
            await self._keeping.close()
        with contextlib.suppress(TimeoutError):
            limit = self.options.grace_s if grace_s is None else grace_s
            await asyncio.wait_for(self._calls.wait_idle(), limit)
        await self._grpc.stop(LAST_WORDS_S)
        self._intake.close()
        self._jobs.close()
        self._datasets.close()
        self._models.close()
        if self._metrics_endpoint is not None:
            await asyncio.to_thread(self._metrics_endpoint.close)
        log.info("stopped", extra={"address": self.address})

    async def abandon(self) -> None:
        """Cancel every call and stop at once; for somebody who will not wait for ``stop``."""
        await self._grpc.stop(0)
        self._intake.close()
        self._jobs.close()
        self._datasets.close()
        self._models.close()

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _built(self) -> grpc.aio.Server:
        limit = self.options.max_message_bytes
        server = grpc.aio.server(
            interceptors=(self._calls,),
            # Requests still arriving take memory before ``intake`` can refuse them.
            maximum_concurrent_rpcs=self._engine.limits.max_images * 2 + CALLS_BESIDES,
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # A device that vanished without a word must not hold its stream for ever.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                # Clients on bad networks ping each 30 s to notice a dead line; by default, gRPC
                # takes that for abuse and hangs up.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.so_reuseport", 0),  # with it, two servers share a port and none complains
            ),
        )
        self.metrics.watch_depth(self._intake.inside)
        servicer = LabelingServicer(
            self._engine,
            self._intake,
            self._ontology,
            self.metrics,
            self._stopping,
            limit,
            self._keeping.frames if self._keeping else None,
        )
        labeling_pb2_grpc.add_LabelingServiceServicer_to_server(servicer, server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(self._datasets, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self._models, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = PoolWithMethods(descriptor_pool.Default())
        reflection.enable_server_reflection(names, server, pool)
        return server


def _trainer(store: Store | None, options: ServerOptions) -> Trainer | None:
    if store is None or options.trainings is None or not options.trainings_at_once:
        return None
    return Trainer(store, options.trainings, options.trainings_at_once)


def running_server(
    engine: Engine,
    ontology: Ontology | None = None,
    options: ServerOptions | None = None,
    metrics: Metrics | None = None,
    store: Store | None = None,
) -> contextlib.AbstractContextManager[Server]:
    """A server in a thread of its own, listening; stopped gracefully at the end.

    Entering raises what ``Server.start`` raises.
    """
    return in_own_thread("grpc-server", lambda: Server(engine, ontology, options, metrics, store))


def serve(
    engine: Engine,
    ontology: Ontology | None = None,
    options: ServerOptions | None = None,
    metrics: Metrics | None = None,
    store: Store | None = None,
    ready: Callable[[Server], None] = lambda server: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted; a second one stops at once.

    ``ready`` hears the server once it listens. Call it from the main thread.
    """
    asyncio.run(_serve(lambda: Server(engine, ontology, options, metrics, store), ready))


async def _serve(make: Callable[[], Server], ready: Callable[[Server], None]) -> None:
    asked, insisted = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (insisted if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server = make()
    await server.start()
    ready(server)
    await asked.wait()
    log.info("stopping; finishing what was accepted")
    stop = asyncio.ensure_future(server.stop())
    hurry = asyncio.ensure_future(insisted.wait())
    await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        stop.cancel()
        await server.abandon()
    hurry.cancel()
