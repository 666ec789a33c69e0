"""The gRPC server: an engine, a store and their settings, wired together in this process.

    async with Server(engine, ontology) as server:       # inside an event loop
        print(server.address)

    with running_server(engine, ontology) as server:     # from plain code; a thread runs the loop
        print(server.address)

    serve(engine, ontology)                              # until SIGTERM or Ctrl-C

The caller closes the engine and the store, after the server. It listens on loopback by default; a
network is let in with TLS and with tokens in the store only, unless the settings say ``insecure``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from secondlook.config.settings import ImageSettings, ServerSettings, Settings
from secondlook.config.stop_signals import StopSignals
from secondlook.core.access import Role
from secondlook.core.decoding import ImageDecoder
from secondlook.core.signing import ModelSigner
from secondlook.jobs.guarantee_checks import checks_of_all
from secondlook.jobs.training import Trainer
from secondlook.labeling.encoding_cache import EncodingCache
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server import reflection
from secondlook.server.addresses import (
    check_doors,
    explain_port_failure,
    format_address,
    is_loopback,
    local_address,
)
from secondlook.server.audit import AuditLog
from secondlook.server.auth import AuthInterceptor
from secondlook.server.bridge.endpoint import WebEndpoint
from secondlook.server.bridge.page_images import PageImages
from secondlook.server.browse import BrowseServicer
from secondlook.server.call_limits import CallLimits
from secondlook.server.client_limits import TOKEN, ClientLimits
from secondlook.server.connections import connection_budget, raise_descriptor_limit
from secondlook.server.converters import Ontologies
from secondlook.server.datasets import DatasetServicer
from secondlook.server.health import HealthServicer, VerifierHealth
from secondlook.server.interceptors import CallInterceptor
from secondlook.server.jobs import JobServicer, StoreServices
from secondlook.server.labeling import MAX_STREAMS, AdmissionControl, LabelingServicer
from secondlook.server.loop_thread import in_daemon_thread, in_own_thread
from secondlook.server.method_access import REFLECTION, MethodAccess, declared_access
from secondlook.server.metrics import Metrics, MetricsEndpoint
from secondlook.server.models import ModelServicer
from secondlook.server.oidc import OidcIssuer
from secondlook.server.own_socket import OwnSocket
from secondlook.server.readiness import Readiness
from secondlook.server.reviews import ReviewServicer
from secondlook.server.segmentation import SegmentationServicer
from secondlook.server.tls import ReloadedTls, TlsFiles
from secondlook.server.token_table import TokenTable
from secondlook.store import Store
from secondlook.store.ingest import stored_bytes
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import Ontology
from secondlook_client.v1 import (
    browse_pb2,
    browse_pb2_grpc,
    datasets_pb2,
    datasets_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    labeling_pb2,
    labeling_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    reviews_pb2,
    reviews_pb2_grpc,
    segmentation_pb2,
    segmentation_pb2_grpc,
)
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

MESSAGE_OVERHEAD = 4 * 2**20
"""Bytes of a message besides its image: the longest ontology has fewer."""
MAX_MESSAGE_BYTES = 2**31 - 1
"""gRPC counts in 32 bits."""
TRAININGS = "trainings"
"""Folder in the data folder in which students are trained."""


SERVICES = tuple(
    service.full_name
    for file in (
        labeling_pb2,
        segmentation_pb2,
        jobs_pb2,
        datasets_pb2,
        models_pb2,
        reviews_pb2,
        browse_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
EXTRA_CALLS = 2 * MAX_STREAMS
"""Calls at the same time besides twice as many as images in flight."""
STREAMS_OF_CONNECTION = 256
"""Calls at the same time on one connection; a client waits with more."""
HANDSHAKE_S = 20.0
"""A connection that has not begun to speak HTTP/2 by then is closed."""
IDLE_CONNECTION_S = 600.0
"""A connection without calls for this long is closed; clients open another one with their next."""
REFUSE_S = 1.0
"""Of the grace: new calls are refused in words. After it connections are told to end, so that
their clients go to another server while this one finishes what it accepted."""
CLOSE_S = 0.5
"""Time for calls that never end by themselves, such as health watchers."""
READING = MethodAccess(f"{REFLECTION}/", frozenset({Role.VIEWER}))
"""Who may read metrics from another machine: whoever may read anything."""
PAGE_IMAGES = MethodAccess("/page/images", READING.roles)
"""So it is with the images of the page."""
ABANDON_S = 1.2
"""After the grace: what has not ended by then is abandoned with the process."""


class Server:
    """One gRPC server on the running event loop; an async context manager."""

    def __init__(
        self,
        engine: Engine,
        ontology: Ontology | None = None,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
        store: Store | None = None,
    ) -> None:
        """``ontology`` is that of requests without one.

        Without ``settings`` the server listens on loopback at a free port. ``metrics`` are those
        whose ``batch_done`` the engine calls. With a ``store`` there are jobs, captured streams,
        datasets and models; students are trained where ``settings.store`` names a data folder.
        """
        self.settings = settings or Settings(server=ServerSettings(port=0))
        self.metrics = metrics or Metrics()
        self.address = ""
        """``host:port``, once it listens."""
        self.own_address = ""
        """At which programs of this user reach it without TLS or token, once it listens."""
        self.metrics_port: int | None = None
        """Once it listens, and only when asked for."""
        self.web_address = ""
        """``http://host:port`` of the page (``https`` with TLS), once it listens, and only when
        asked for."""
        self._engine = engine
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        if store:
            self.metrics.watch_guarantees(lambda: checks_of_all(store))
            self.metrics.watch_jobs(store.queue.depth)
        if store and engine.pipeline.calibrator:  # the settings of a job name it by its digest
            store.calibrators.put(engine.pipeline.calibrator)
        self._ontologies = Ontologies(ontology, engine.pipeline.check_ontology)
        self._stopping = asyncio.Event()
        self._calls = CallInterceptor(self.metrics, self._stopping)
        oidc = _oidc(self.settings, store)
        self._tokens = TokenTable(store.tokens, required=oidc is not None) if store else None
        self._audit = AuditLog(self.settings.server.audit_log)
        self._auth = AuthInterceptor(
            self._tokens, declared_access(SERVICES), self.metrics, self._audit, oidc
        )
        tls = TlsFiles.of(self.settings.server)
        self._tls = ReloadedTls(tls) if tls else None
        self._own_socket: OwnSocket | None = None
        self._decoder = ImageDecoder(self.settings.images)
        self._clients = ClientLimits(
            self.settings.limits,
            self.metrics.call_limited,
            partial(_stored_bytes, store) if store else None,
        )
        self.metrics.watch_clients(self._clients.busiest)
        self._admission = AdmissionControl(engine, self._decoder, self._clients)
        roots = self.settings.server.image_root_folders
        max_jobs = self.settings.server.max_jobs
        self._services = (
            StoreServices(store, engine, self._decoder, roots, max_jobs, self._verified)
            if store
            else None
        )
        self._jobs = JobServicer(
            self._services,
            self._ontologies,
            engine.settings_for,
            lambda: engine.pipeline.models,
            roots,
            self._stopping,
            self._clients,
        )
        self._datasets = DatasetServicer(store, self._stopping)
        if store and self.settings.server.model_signing_key:
            store.model_versions.sign = ModelSigner(self.settings.server.model_signing_key).sign
        self._trainer = _trainer(store, self.settings)
        self._models = ModelServicer(store, self._trainer, self._stopping)
        self._reviews = ReviewServicer(store)
        self._browse = BrowseServicer(store)
        encodings = EncodingCache(self.settings.server.encoding_cache_bytes)
        self.metrics.watch_encodings(lambda: encodings.stats)
        segmenter = engine.pipeline.segmenter
        self._segmentation = SegmentationServicer(segmenter, self._decoder, encodings, store)
        self._health = HealthServicer()
        self._verifier: VerifierHealth | None = None
        self._readiness = Readiness(
            self._health,
            self.metrics,
            store,
            self._models_are_away,
            (SERVICES[:2], SERVICES[2:]),
        )
        self._metrics_endpoint: MetricsEndpoint | None = None
        self._web: WebEndpoint | None = None
        self._max_connections = connection_budget(
            self.settings.server.max_connections, raise_descriptor_limit()
        )
        self._limits = CallLimits(
            self.settings.server,
            engine.batching.max_in_flight * 2 + EXTRA_CALLS,
            max_message_bytes(self.settings.images),
            self.metrics,
            self.settings.limits,
            self._clients,
        )
        self._grpc = self._build()

    async def start(self) -> None:
        """Listen and serve.

        Raises ``BadSetting`` when the port cannot be had, or must not be opened to a network.
        """
        server = self.settings.server
        self._loop = asyncio.get_running_loop()
        if self._tokens is not None:
            await asyncio.to_thread(self._tokens.read)
        check_doors(server, self._asks_for_tokens)
        port = self._listen()
        if server.metrics_port is not None:
            try:
                self._metrics_endpoint = self._serve_metrics(server.metrics_port)
            except BadSetting:
                await self._grpc.stop(0)  # releases the port
                raise
            self.metrics_port = self._metrics_endpoint.port
        if not is_loopback(server.host) and server.insecure:
            log.warning("open to the network as --insecure says", extra={"host": server.host})
        self.address = format_address(server.host, port)
        self.own_address = local_address(server.host, port)
        self._listen_privately()
        try:
            await self._start_web()
        except BadSetting:
            await self._grpc.stop(0)
            if self._metrics_endpoint is not None:
                await asyncio.to_thread(self._metrics_endpoint.close)
            raise
        await self._grpc.start()
        self._limits.start(port, self._max_connections)
        self._auth.start()
        self._watch_verifier()
        await self._readiness.start()
        if self._services is not None:
            self._services.runner.start()
        if self._trainer is not None:
            await asyncio.to_thread(self._trainer.start, self.own_address)
        log.info("serving", extra={"address": self.address, "metrics_port": self.metrics_port})

    async def _start_web(self) -> None:
        server = self.settings.server
        if server.web_port is None:
            return
        images = PageImages(self._store, self._decoder)
        limit = max_message_bytes(self.settings.images)
        tls = self._tls.reloading_context() if self._tls is not None else None
        self._web = WebEndpoint(server, limit, images, check=self._check_page, tls=tls)
        await self._web.start(self.own_address)
        self.web_address = self._web.address

    def _watch_verifier(self) -> None:
        """Count what the verifier answers, and let health tell when it is down."""
        pipeline = self._engine.pipeline
        if pipeline.verifier is None:
            return
        verifier = VerifierHealth(self._health)

        def observe(answers: Sequence[Answer]) -> None:
            self.metrics.questions_answered(answers)
            verifier.observe(answers)

        pipeline.observe_answers = observe
        pipeline.observe_decoys = self.metrics.decoys_answered
        self._verifier = verifier

    def _verified(self, created_by: str, seconds: float) -> None:
        """The verifier took so long for an image of a token's job; in any thread."""
        if created_by and self._loop is not None:
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(self._clients.verified, TOKEN + created_by, seconds)

    def _models_are_away(self) -> bool:
        """Whether labelling, or the verifier, failed again and again and lately."""
        verifier = self._verifier
        return self._admission.failures.away or (verifier is not None and verifier.streak.away)

    @property
    def _asks_for_tokens(self) -> bool:
        return self._tokens is not None and self._tokens.asks

    def _listen(self) -> int:
        """The port. Raises ``BadSetting``."""
        server = self.settings.server
        address = format_address(server.host, server.port)
        try:
            if self._tls is not None:
                return self._grpc.add_secure_port(address, self._tls.credentials())
            return self._grpc.add_insecure_port(address)
        except RuntimeError as cause:
            raise BadSetting(explain_port_failure(server.host, server.port)) from cause

    def _listen_privately(self) -> None:
        """Open a socket of this user, where its own programs could not get in otherwise.

        The first token may be made while a training runs, or the page is open.
        """
        own_programs = self._trainer is not None or self.settings.server.web_port is not None
        if own_programs or self._tls is not None or self._asks_for_tokens:
            self._own_socket = OwnSocket()
            self.own_address = self._own_socket.address
            self._grpc.add_insecure_port(self.own_address)

    def _serve_metrics(self, port: int) -> MetricsEndpoint:
        """On this machine open to all its users; beyond, behind what there is of TLS and tokens."""
        host = self.settings.server.metrics_host
        if is_loopback(host):
            return self.metrics.serve(host, port)
        tls = self._tls.context if self._tls is not None else None
        return self.metrics.serve(host, port, tls, self._check_scrape)

    async def _check_page(self, host: str, credentials: Sequence[str]) -> None:
        await self._auth.check(PAGE_IMAGES, host, credentials)

    def _check_scrape(self, credentials: Sequence[str]) -> None:
        if self._tokens is not None:
            self._tokens.read()
            principal = self._tokens.principal(credentials)
            READING.check_role(principal.name, principal.access)

    def finish_jobs(self) -> None:
        """Start no more images of jobs, and finish those in progress; from any thread."""
        if self._services is not None:
            self._services.runner.close()

    async def stop(self, grace_s: float | None = None) -> None:
        """Say NOT_SERVING, refuse new calls, soon stop listening, and finish the accepted ones.

        Trainings, jobs and calls end side by side. What is not finished after ``grace_s``
        (default: the settings') is cancelled.
        """
        if self._stopping.is_set():
            return
        limit_s = self.settings.server.grace_s if grace_s is None else grace_s
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        endings: list[asyncio.Future[None]] = [asyncio.ensure_future(self._calls.wait_idle())]
        if self._trainer is not None:
            endings.append(in_daemon_thread(partial(self._trainer.close, limit_s)))
        if self._services is not None:
            endings.append(asyncio.ensure_future(self._services.close(limit_s)))
        _, left = await asyncio.wait(endings, timeout=min(REFUSE_S, limit_s))
        if left and limit_s > REFUSE_S:
            left_s = limit_s - REFUSE_S
            closing = asyncio.ensure_future(self._grpc.stop(left_s))
            _, left = await asyncio.wait(endings, timeout=left_s)
            closing.cancel()
        for ending in endings:
            if not ending.cancel() and (failure := ending.exception()):
                log.error("stopping failed in part", exc_info=failure)
        if self._web is not None:
            await self._web.stop()
        await self._grpc.stop(0 if left else CLOSE_S)
        await self._limits.close()
        await self._auth.close()
        await self._readiness.close()
        if self._own_socket is not None:
            self._own_socket.close()
        self._close_threads()
        if self._metrics_endpoint is not None:
            await asyncio.to_thread(self._metrics_endpoint.close)
        log.info("stopped", extra={"address": self.address})

    def _close_threads(self) -> None:
        for part in (
            self._decoder,
            self._segmentation,
            self._jobs,
            self._datasets,
            self._models,
            self._reviews,
            self._browse,
        ):
            part.close()
        if self._services is not None:
            self._services.frames.close()

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

    @property
    def pipeline(self) -> Pipeline:
        """The models that label here."""
        return self._engine.pipeline

    @property
    def store(self) -> Store | None:
        """Where results are kept; None: nowhere."""
        return self._store

    def calibrator_digest(self, ontology: Ontology) -> str:
        """Of the calibrator that decides labels of these classes; empty: there is none."""
        return self._engine.calibrator_digest(ontology)

    def _build(self) -> grpc.aio.Server:
        limit = max_message_bytes(self.settings.images)
        server = grpc.aio.server(
            interceptors=(self._auth, self._limits, self._calls),
            options=(
                ("grpc.max_allowed_incoming_connections", self._max_connections),
                ("grpc.max_concurrent_streams", STREAMS_OF_CONNECTION),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
                ("grpc.max_connection_idle_ms", int(IDLE_CONNECTION_S * 1000)),
                # What a stream that nobody reads may send; a message that is waited for may be sent
                # whole, whatever this is. By default it would be 4 MB.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", 2**16),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # A device that vanished must not hold its stream for ever.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                # Clients on bad networks ping every 30 s to notice a lost connection; by default
                # gRPC takes that for abuse and closes it.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.so_reuseport", 0),  # else two servers could share a port unnoticed
            ),
        )
        self.metrics.watch_depth(self._admission.in_flight)
        servicer = LabelingServicer(
            self._engine,
            self._admission,
            self._ontologies,
            self.metrics,
            self._stopping,
            limit,
            self._jobs,
            self._services.frames if self._services else None,
            self._limits.request_bytes,
        )
        labeling_pb2_grpc.add_LabelingServiceServicer_to_server(servicer, server)
        segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(self._segmentation, server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(self._datasets, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self._models, server)
        reviews_pb2_grpc.add_ReviewServiceServicer_to_server(self._reviews, server)
        browse_pb2_grpc.add_BrowseServiceServicer_to_server(self._browse, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable((*SERVICES, HEALTH), server)
        return server


def _oidc(settings: Settings, store: Store | None) -> OidcIssuer | None:
    """Raises ``BadSetting`` for settings that do not fit each other."""
    if not settings.oidc.oidc_issuer:
        return None
    if store is None:
        raise BadSetting("oidc_issuer takes a store; start the server with --data FOLDER")
    return OidcIssuer(settings.oidc)


def _trainer(store: Store | None, settings: Settings) -> Trainer | None:
    if store is None or not settings.store.data or not settings.server.max_trainings:
        return None
    return Trainer(store, Path(settings.store.data) / TRAININGS, settings.server.max_trainings)


def _stored_bytes(store: Store, created_by: str) -> int:
    with store.database.reading() as connection:
        return stored_bytes(connection, created_by)


def running_server(
    engine: Engine,
    ontology: Ontology | None = None,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    store: Store | None = None,
) -> contextlib.AbstractContextManager[Server]:
    """A server in a thread of its own, listening; stopped gracefully at the end.

    Entering raises what ``Server.start`` raises.
    """
    return in_own_thread("grpc-server", lambda: Server(engine, ontology, settings, metrics, store))


def serve(
    engine: Engine,
    ontology: Ontology | None = None,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    store: Store | None = None,
    ready: Callable[[Server], None] = lambda server: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted; a second one stops at once.

    The process ends at most the settings' grace and ``ABANDON_S`` after the signal, also when this
    has returned before and something else does not end: it is for a process that does nothing
    else. Its exit code is ``ABANDONED`` then. ``ready`` is called once the server listens. Call
    this from the main thread.
    """
    asyncio.run(_serve(lambda: Server(engine, ontology, settings, metrics, store), ready))


async def _serve(make: Callable[[], Server], ready: Callable[[Server], None]) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def ask() -> None:  # in any thread
        with suppress(RuntimeError):  # the loop has just been closed
            loop.call_soon_threadsafe(asked.set)

    server = make()
    with StopSignals(ask, server.settings.server.grace_s + ABANDON_S):
        started = asyncio.ensure_future(server.start())
        stopped = asyncio.ensure_future(asked.wait())
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            await started
            ready(server)
            await stopped
        log.info("stopping; finishing what was accepted")
        started.cancel()
        await server.stop()


def max_message_bytes(limits: ImageSettings) -> int:
    """Of the largest image allowed and the rest of a request."""
    return min(limits.max_image_bytes + MESSAGE_OVERHEAD, MAX_MESSAGE_BYTES)
