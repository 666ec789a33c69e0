"""The servicer of models: each call is checked, handed to the store, and answered."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import grpc

from secondlook.core.errors import BadRequest, Busy, DeadlineExceeded, NotSupported, ShuttingDown
from secondlook.detector.manifest import Manifest
from secondlook.jobs.training import Trainer
from secondlook.registry.promotion import promote
from secondlook.server.converters import (
    checked_header,
    checked_id,
    checked_order,
    checked_page,
    comparison_message,
    known_name,
    model_message,
    model_page,
    training_message,
)
from secondlook.server.interceptors import CallInterceptor
from secondlook.server.loop_thread import in_own_thread
from secondlook.server.metrics import Metrics
from secondlook.store import Store
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc

# A student that comes in chunks: each file is checked as soon as it is whole, and kept.

AT_ONCE = 2
"""Students on their way at one time: a file of each may lie in memory."""
MAX_CHUNK = 2**20
SILENCE_S = 60.0
"""A sender that says nothing for so long gives its place to others."""

Put = Callable[[bytes], Awaitable[Any]]
"""Keeps the bytes of a file."""


class ModelArrivals:
    """Takes students in. Belongs to one event loop."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._inside = 0

    async def take(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, Manifest, str]:
        """Name, manifest and report of a student whose files are all kept now.

        Raises ``BadRequest`` for one that is not as its manifest says, ``Busy`` when others are
        coming, ``DeadlineExceeded`` for a sender that fell silent, and what ``put`` raises.
        """
        if self._inside >= AT_ONCE:
            raise Busy(f"{self._inside} models are being sent already; try again in a moment", 2.0)
        self._inside += 1
        try:
            return await self._take(requests)
        finally:
            self._inside -= 1

    async def _take(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, Manifest, str]:
        first = await _next(requests)
        if first is None or not first.HasField("header"):
            raise BadRequest("a model begins with its header; send name and manifest first")
        name, manifest, report = checked_header(first.header)
        files = _Files(manifest)
        while (request := await _next(requests)) is not None:
            if not request.HasField("chunk"):
                raise BadRequest("the header comes once; send chunks of files after it")
            if (content := files.add(request.chunk)) is not None:
                await self._put(content)
        for content in files.finish():
            await self._put(content)
        return name, manifest, report


class _Files:
    """The files of a student as they come, one after the other."""

    def __init__(self, manifest: Manifest) -> None:
        self._expected = manifest.files
        self._whole: set[str] = set()
        self._name = ""
        self._content = bytearray()

    def add(self, chunk: pb.ModelChunk) -> bytes | None:
        """The bytes of the file that this chunk makes whole. Raises ``BadRequest``."""
        self._check(chunk)
        self._name = chunk.file
        self._content += chunk.data
        expected = self._expected[chunk.file]
        if len(self._content) > expected.size:
            raise BadRequest(
                f"{chunk.file} is longer than the {expected.size:,} bytes of the manifest; export "
                "the student again"
            )
        return self._end() if len(self._content) == expected.size else None

    def finish(self) -> list[bytes]:
        """What is whole without a chunk, being empty. Raises ``BadRequest`` for what is not."""
        found = []
        # The one that broke off is named first.
        for name in sorted(self._expected.keys() - self._whole, key=lambda n: (n != self._name, n)):
            if self._expected[name].size:
                came = len(self._content) if name == self._name else 0
                raise BadRequest(
                    f"{name} did not come whole: {came:,} of {self._expected[name].size:,} bytes; "
                    "send the student again"
                )
            self._name = name
            found.append(self._end())
        return found

    def _check(self, chunk: pb.ModelChunk) -> None:
        if chunk.file not in self._expected:
            raise BadRequest(
                f"the manifest names no file '{chunk.file:.100}'; send only what it names"
            )
        if chunk.file in self._whole:
            raise BadRequest(f"more of {chunk.file} came after its end; send each file once")
        if self._name and chunk.file != self._name:
            raise BadRequest(
                f"a chunk of {chunk.file} came before the end of {self._name}; send one file after "
                "the other"
            )
        if len(chunk.data) > MAX_CHUNK:
            raise BadRequest(f"a chunk has at most {MAX_CHUNK:,} bytes, got {len(chunk.data):,}")

    def _end(self) -> bytes:
        content, name = bytes(self._content), self._name
        if hashlib.sha256(content).hexdigest() != self._expected[name].sha256:
            raise BadRequest(
                f"{name} is not the file that the manifest names: its hash is another one; export "
                "the student again"
            )
        self._whole.add(name)
        self._name, self._content = "", bytearray()
        return content


async def _next(requests: AsyncIterator[pb.AddVersionRequest]) -> pb.AddVersionRequest | None:
    """The next message; None at the end. Raises ``DeadlineExceeded`` after ``SILENCE_S``."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing of the model came for {SILENCE_S:.0f} s; send it again"
        ) from None


T = TypeVar("T")

THREADS = 4
"""Calls that wait for the store at one time."""
MAX_COMPARISONS = 4
"""Promotions that wait for their comparison; one is computed at a time."""
CHUNK = 256 * 2**10
"""Bytes of one message of a download: shows progress on a slow line."""
WATCH_EVERY_S = 0.5
TELL_EVERY_S = 5.0
"""A watcher hears at least so often, so that it knows that the line stands."""


class _Content:
    """The bytes of a file, shared by all who download it at the same time."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """``ModelService`` of a server that keeps things; without a store, every call is refused."""

    def __init__(
        self, store: Store | None, trainer: Trainer | None, stopping: asyncio.Event
    ) -> None:
        """``trainer`` None: nothing is trained here. ``stopping`` ends the calls that last."""
        self._kept = store
        self._trainer = trainer
        self._stopping = stopping
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="models")
        self._judges = ThreadPoolExecutor(1, thread_name_prefix="compare-models")
        self._comparing = 0
        self._contents: WeakValueDictionary[str, _Content] = WeakValueDictionary()
        self._arrivals = ModelArrivals(self._put)

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        self._threads.shutdown(wait=False)
        self._judges.shutdown(wait=False, cancel_futures=True)

    async def AddVersion(  # noqa: N802 (gRPC's own spelling)
        self, requests: AsyncIterator[pb.AddVersionRequest], context: Any
    ) -> pb.AddVersionResponse:
        """Keep a new version."""
        store = self._store()
        name, manifest, report = await self._arrivals.take(requests)
        kept, already = await self._in_thread(lambda: store.students.add(name, manifest, report))
        return pb.AddVersionResponse(model=model_message(kept), already=already)

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: Any
    ) -> pb.GetModelResponse:
        """One version."""
        store = self._store()
        wanted = known_name(request.name), _version(request.version)
        found = await self._in_thread(lambda: store.students.get(*wanted, report=request.report))
        return pb.GetModelResponse(model=model_message(found))

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        """A page of versions, the newest first."""
        store = self._store()
        size, before = checked_page(request.page_size, request.page_token, "ListModels")
        name = known_name(request.name) if request.name else ""
        found = await self._in_thread(lambda: store.students.page(name, before, size + 1))
        return model_page(found, size)

    async def PromoteModel(  # noqa: N802
        self, request: pb.PromoteModelRequest, context: Any
    ) -> pb.PromoteModelResponse:
        """Make a version current, unless it is worse."""
        store = self._store()
        if not request.version:
            raise BadRequest("say which version to promote: a number from 1")
        name, version = known_name(request.name), _version(request.version)
        on = known_name(request.on_snapshot, "snapshot") if request.on_snapshot else ""
        if self._comparing >= MAX_COMPARISONS:
            raise Busy("other models are being compared already; try again in a minute", 10.0)
        given_up = threading.Event()

        def stopped() -> bool:
            return given_up.is_set() or self._stopping.is_set()

        def work() -> Any:
            return promote(
                store, name, version, force=request.force, on_snapshot=on, stopped=stopped
            )

        self._comparing += 1
        try:
            promoted, comparison = await self._run_in(self._judges, work)
        finally:
            given_up.set()
            self._comparing -= 1
        return pb.PromoteModelResponse(
            model=model_message(promoted), comparison=comparison_message(comparison)
        )

    async def RollbackModel(  # noqa: N802
        self, request: pb.RollbackModelRequest, context: Any
    ) -> pb.RollbackModelResponse:
        """Go back to the version that was current before."""
        store = self._store()
        wanted = known_name(request.name), _version(request.from_version)
        found = await self._in_thread(lambda: store.students.rollback(*wanted))
        return pb.RollbackModelResponse(model=model_message(found))

    # The stubs know only handlers that yield; these write, so that a slow reader slows them.
    async def DownloadModel(  # type: ignore[override]  # noqa: N802
        self, request: pb.DownloadModelRequest, context: Any
    ) -> None:
        """A file of a version, from an offset on."""
        store, offset = self._store(), request.offset
        wanted = known_name(request.name), _version(request.version), request.file
        file = await self._in_thread(lambda: store.students.file(*wanted))
        if offset > file.size:
            raise BadRequest(f"{request.file} has {file.size} bytes; {offset} cannot be left out")
        content = self._contents.get(file.sha256)
        if content is None:
            content = _Content(await self._in_thread(lambda: store.blobs.get(file.sha256)))
            self._contents[file.sha256] = content
        told: pb.ModelFile | None = pb.ModelFile(sha256=file.sha256, size=file.size)
        while told is not None or offset < file.size:
            if self._stopping.is_set():
                raise ShuttingDown("the server is shutting down; go on with the rest in a moment")
            data = content.data[offset : offset + CHUNK]
            await context.write(pb.DownloadModelResponse(file=told, data=data))
            told, offset = None, offset + len(data)

    async def TrainModel(  # noqa: N802
        self, request: pb.TrainModelRequest, context: Any
    ) -> pb.TrainModelResponse:
        """Queue a training."""
        store = self._store()
        if self._trainer is None:
            raise NotSupported(
                "this server trains nothing; start it with --data FOLDER and --trainings 1, or run "
                "`secondlook distill` yourself"
            )
        self._trainer.check()
        named = known_name(request.snapshot, "snapshot")
        snapshot = await self._in_thread(lambda: store.snapshots.get(named))
        splits = {n: c["images"] for n, c in snapshot.statistics["splits"].items()}
        order = checked_order(request, splits)
        made = await self._in_thread(lambda: store.trainings.create(order))
        return pb.TrainModelResponse(training=training_message(made))

    async def GetTraining(  # noqa: N802
        self, request: pb.GetTrainingRequest, context: Any
    ) -> pb.GetTrainingResponse:
        """How a training stands."""
        store, number = self._store(), checked_id(request.id)
        found = await self._in_thread(lambda: store.trainings.get(number))
        return pb.GetTrainingResponse(training=training_message(found))

    async def WatchTraining(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchTrainingRequest, context: Any
    ) -> None:
        """News of a training until it is over."""
        store, number = self._store(), checked_id(request.id)
        told, told_at = None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            training = await self._in_thread(lambda: store.trainings.get(number))
            if training != told or loop.time() - told_at >= TELL_EVERY_S:
                await context.write(pb.WatchTrainingResponse(training=training_message(training)))
                told, told_at = training, loop.time()
            if not training.active:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_EVERY_S)
            if self._stopping.is_set():
                raise ShuttingDown("the server is shutting down; follow it again in a moment")

    async def CancelTraining(  # noqa: N802
        self, request: pb.CancelTrainingRequest, context: Any
    ) -> pb.CancelTrainingResponse:
        """Stop a training."""
        store, number = self._store(), checked_id(request.id)
        found = await self._in_thread(lambda: store.trainings.cancel(number))
        return pb.CancelTrainingResponse(training=training_message(found))

    async def ListTrainings(  # noqa: N802
        self, request: pb.ListTrainingsRequest, context: Any
    ) -> pb.ListTrainingsResponse:
        """A page of trainings, the newest first."""
        store = self._store()
        size, before = checked_page(request.page_size, request.page_token, "ListTrainings")
        found = await self._in_thread(lambda: store.trainings.page(before, size + 1))
        more = str(found[size - 1].id) if len(found) > size else ""
        page = map(training_message, found[:size])
        return pb.ListTrainingsResponse(trainings=page, next_page_token=more)

    def _store(self) -> Store:
        if self._kept is None:
            raise NotSupported(
                "this server keeps nothing, so it has no models; start it with --data FOLDER"
            )
        return self._kept

    async def _put(self, content: bytes) -> str:
        store = self._store()
        return await self._in_thread(lambda: store.blobs.put(content))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The store may be slow; the event loop never waits for it."""
        return await self._run_in(self._threads, work)

    async def _run_in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def _version(number: int) -> int:
    """A version that a database can hold; the largest it can where it is larger."""
    return min(number, 2**31 - 1)


# ``ModelService`` alone over a store: for a command on the machine where the store is.
#
# It loads no model and works on no job, so it may run beside a server of the same store.


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
