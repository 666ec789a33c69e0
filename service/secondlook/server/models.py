"""``ModelService``: each call is checked, handed to the store, and answered.

A student is uploaded in chunks; each file is checked and stored as soon as it is complete.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any
from weakref import WeakValueDictionary

from secondlook.detector.manifest import StudentManifest
from secondlook.jobs.training import Trainer
from secondlook.registry.promotion import promote
from secondlook.server.converters import (
    checked_header,
    checked_order,
    comparison_message,
    known_name,
    model_message,
    model_page,
    training_message,
)
from secondlook.server.one_service import running_service
from secondlook.server.ownership import check_owner, creator
from secondlook.server.store_calls import StoreServicer, next_token, page_of
from secondlook.store import Store
from secondlook_client.errors import BadRequest, Busy, DeadlineExceeded, NotSupported, ShuttingDown
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc

THREADS = 4
"""Calls that wait for the store at the same time."""
COMPARISONS = 2
"""Promotions computed at the same time: a slow model holds up no other one."""
MAX_COMPARISONS = 6
"""Promotions that are computed or wait."""
CHUNK = 256 * 2**10
"""Bytes of one message of a download: shows progress on a slow connection."""
POLL_S = 0.5
HEARTBEAT_S = 5.0
"""A watcher gets a message at least this often, so that it knows that the connection stands."""
MAX_UPLOADS = 2
"""Students uploaded at the same time: a file of each may lie in memory."""
UPLOAD_TIMEOUT_S = 60.0
"""Without a message for this long an upload is given up."""

StoreFile = Callable[[bytes], Awaitable[Any]]


class _SharedFile:
    """The bytes of a file, shared by all who download it at the same time."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class ModelServicer(StoreServicer, models_pb2_grpc.ModelServiceServicer):
    """``ModelService`` over a store; without one, every call is refused."""

    def __init__(
        self, store: Store | None, trainer: Trainer | None, stopping: asyncio.Event
    ) -> None:
        """``trainer`` None: nothing is trained here. ``stopping`` ends the calls that last."""
        super().__init__(store, "models", THREADS)
        self._trainer = trainer
        self._stopping = stopping
        self._comparisons = ThreadPoolExecutor(COMPARISONS, thread_name_prefix="compare-models")
        self._comparing = 0
        self._contents: WeakValueDictionary[str, _SharedFile] = WeakValueDictionary()
        self._uploads = ModelUploads(self._store_file)

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        super().close()
        self._comparisons.shutdown(wait=False, cancel_futures=True)

    async def AddVersion(  # noqa: N802 (gRPC's own spelling)
        self, requests: AsyncIterator[pb.AddVersionRequest], context: Any
    ) -> pb.AddVersionResponse:
        """Store a new version."""
        store = self._store
        name, manifest, report = await self._uploads.receive(requests)
        made_by = creator()
        kept, already = await self._in_thread(
            lambda: store.model_versions.add(name, manifest, report, made_by)
        )
        return pb.AddVersionResponse(model=model_message(kept), already=already)

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: Any
    ) -> pb.GetModelResponse:
        """One version."""
        store = self._store
        wanted = known_name(request.name), _version(request.version)
        found = await self._in_thread(
            lambda: store.model_versions.get(*wanted, report=request.report)
        )
        return pb.GetModelResponse(model=model_message(found))

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        """A page of versions, the newest first."""
        store = self._store
        size, before = page_of(request.page_size, request.page_token, "ListModels")
        name = known_name(request.name) if request.name else ""
        found = await self._in_thread(lambda: store.model_versions.page(name, before, size + 1))
        return model_page(found, size)

    async def PromoteModel(  # noqa: N802
        self, request: pb.PromoteModelRequest, context: Any
    ) -> pb.PromoteModelResponse:
        """Make a version current, unless it is worse."""
        store = self._store
        if not request.version:
            raise BadRequest("say which version to promote: a number from 1")
        name, version = known_name(request.name), _version(request.version)
        on = known_name(request.on_snapshot, "snapshot") if request.on_snapshot else ""
        if self._comparing >= MAX_COMPARISONS:
            raise Busy(
                "other models are being compared already; try again in a minute", retry_after_s=10.0
            )
        stopped = self._stopping.is_set

        def work() -> Any:
            return promote(
                store, name, version, force=request.force, on_snapshot=on, stopped=stopped
            )

        self._comparing += 1
        try:
            promoted, comparison = await self._in_thread(work, self._comparisons)
        finally:
            self._comparing -= 1
        return pb.PromoteModelResponse(
            model=model_message(promoted), comparison=comparison_message(comparison)
        )

    async def RollbackModel(  # noqa: N802
        self, request: pb.RollbackModelRequest, context: Any
    ) -> pb.RollbackModelResponse:
        """Go back to the version that was current before."""
        store = self._store
        wanted = known_name(request.name), _version(request.from_version)
        found = await self._in_thread(lambda: store.model_versions.rollback(*wanted))
        return pb.RollbackModelResponse(model=model_message(found))

    # The stubs know only handlers that yield; these write, so that a slow reader slows them.
    async def DownloadModel(  # type: ignore[override]  # noqa: N802
        self, request: pb.DownloadModelRequest, context: Any
    ) -> None:
        """A file of a version, from an offset on."""
        store, offset = self._store, request.offset
        wanted = known_name(request.name), _version(request.version), request.file
        file = await self._in_thread(lambda: store.model_versions.file(*wanted))
        if offset > file.size:
            raise BadRequest(f"{request.file} has {file.size} bytes; {offset} cannot be left out")
        content = self._contents.get(file.sha256)
        if content is None:
            content = _SharedFile(await self._in_thread(lambda: store.blobs.get(file.sha256)))
            self._contents[file.sha256] = content
        first: pb.ModelFile | None = pb.ModelFile(sha256=file.sha256, size=file.size)
        while first is not None or offset < file.size:
            if self._stopping.is_set():
                raise ShuttingDown("the server is shutting down; go on with the rest in a moment")
            data = content.data[offset : offset + CHUNK]
            await context.write(pb.DownloadModelResponse(file=first, data=data))
            first, offset = None, offset + len(data)

    async def TrainModel(  # noqa: N802
        self, request: pb.TrainModelRequest, context: Any
    ) -> pb.TrainModelResponse:
        """Queue a training."""
        store = self._store
        if self._trainer is None:
            raise NotSupported(
                "this server trains no students; start it with --data FOLDER and --max-trainings "
                "1, or run `secondlook distill` yourself"
            )
        self._trainer.check()
        named = known_name(request.snapshot, "snapshot")
        snapshot = await self._in_thread(lambda: store.snapshots.get(named))
        splits = {n: c["images"] for n, c in snapshot.statistics["splits"].items()}
        order = checked_order(request, splits)
        made_by = creator()
        made = await self._in_thread(lambda: store.training_jobs.create(order, made_by))
        return pb.TrainModelResponse(training=training_message(made))

    async def GetTraining(  # noqa: N802
        self, request: pb.GetTrainingRequest, context: Any
    ) -> pb.GetTrainingResponse:
        """State of a training."""
        store, number, trainer = self._store, request.id, self._trainer
        found = await self._in_thread(lambda: store.training_jobs.get(number))
        points: Sequence[Mapping[str, Any]] = ()
        if request.curve and trainer is not None and found.active:
            points = await self._in_thread(lambda: trainer.curve(number))
        curve = (pb.TrainingPoint(**point) for point in points)
        return pb.GetTrainingResponse(training=training_message(found), curve=curve)

    async def WatchTraining(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchTrainingRequest, context: Any
    ) -> None:
        """Progress of a training until it has ended."""
        store, number = self._store, request.id
        sent, sent_at = None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            training = await self._in_thread(lambda: store.training_jobs.get(number))
            if training != sent or loop.time() - sent_at >= HEARTBEAT_S:
                await context.write(pb.WatchTrainingResponse(training=training_message(training)))
                sent, sent_at = training, loop.time()
            if not training.active:
                return
            with suppress(TimeoutError):  # wait_for of Python 3.11 loses a cancellation
                async with asyncio.timeout(POLL_S):
                    await self._stopping.wait()
            if self._stopping.is_set():
                raise ShuttingDown("the server is shutting down; follow it again in a moment")

    async def CancelTraining(  # noqa: N802
        self, request: pb.CancelTrainingRequest, context: Any
    ) -> pb.CancelTrainingResponse:
        """Stop a training."""
        store, number = self._store, request.id
        asked = await self._in_thread(lambda: store.training_jobs.get(number))
        check_owner(asked.created_by, f"training {number}")
        found = await self._in_thread(lambda: store.training_jobs.cancel(number))
        return pb.CancelTrainingResponse(training=training_message(found))

    async def ListTrainings(  # noqa: N802
        self, request: pb.ListTrainingsRequest, context: Any
    ) -> pb.ListTrainingsResponse:
        """A page of trainings, the newest first."""
        store = self._store
        size, before = page_of(request.page_size, request.page_token, "ListTrainings")
        found = await self._in_thread(lambda: store.training_jobs.page(before, size + 1))
        page = map(training_message, found[:size])
        return pb.ListTrainingsResponse(trainings=page, next_page_token=next_token(found, size))

    async def _store_file(self, content: bytes) -> str:
        store = self._store
        return await self._in_thread(lambda: store.blobs.put(content))


def _version(number: int) -> int:
    """A version that a database can hold; the largest it can where it is larger."""
    return min(number, 2**31 - 1)


class ModelUploads:
    """Receives students. Belongs to one event loop."""

    def __init__(self, store_file: StoreFile) -> None:
        self._store_file = store_file
        self._running = 0

    async def receive(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, StudentManifest, str]:
        """Name, manifest and report of a student whose files are all stored now.

        Raises ``BadRequest`` for one that does not match its manifest, ``Busy`` when others are
        being uploaded, ``DeadlineExceeded`` for a sender that stopped, and what ``store_file``
        raises.
        """
        if self._running >= MAX_UPLOADS:
            raise Busy(
                f"{self._running} models are being uploaded already; try again in a moment",
                retry_after_s=2.0,
            )
        self._running += 1
        try:
            return await self._receive(requests)
        finally:
            self._running -= 1

    async def _receive(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, StudentManifest, str]:
        first = await _next(requests)
        if first is None or not first.HasField("header"):
            raise BadRequest("a model begins with its header; send name and manifest first")
        # A manifest and a report of megabytes take a while to read.
        name, manifest, report = await asyncio.to_thread(checked_header, first.header)
        files = _UploadedFiles(manifest)
        while (request := await _next(requests)) is not None:
            if not request.HasField("chunk"):
                raise BadRequest("the header comes once; send chunks of files after it")
            if (content := files.add(request.chunk)) is not None:
                await self._store_file(content)
        for content in files.finish():
            await self._store_file(content)
        return name, manifest, report


class _UploadedFiles:
    """The files of a student as they arrive, one after the other."""

    def __init__(self, manifest: StudentManifest) -> None:
        self._expected = manifest.files
        self._complete: set[str] = set()
        self._name = ""
        self._content = bytearray()

    def add(self, chunk: pb.ModelChunk) -> bytes | None:
        """The bytes of the file that this chunk completes. Raises ``BadRequest``."""
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
        """Files that are empty and so have no chunk. Raises ``BadRequest`` for incomplete ones."""
        found = []
        # The one that broke off is named first.
        for name in sorted(
            self._expected.keys() - self._complete, key=lambda n: (n != self._name, n)
        ):
            if self._expected[name].size:
                received = len(self._content) if name == self._name else 0
                raise BadRequest(
                    f"{name} is incomplete: {received:,} of {self._expected[name].size:,} bytes; "
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
        if chunk.file in self._complete:
            raise BadRequest(f"more of {chunk.file} came after its end; send each file once")
        if self._name and chunk.file != self._name:
            raise BadRequest(
                f"a chunk of {chunk.file} came before the end of {self._name}; send one file after "
                "the other"
            )

    def _end(self) -> bytes:
        content, name = bytes(self._content), self._name
        if hashlib.sha256(content).hexdigest() != self._expected[name].sha256:
            raise BadRequest(
                f"the hash of {name} differs from the manifest's; export the student again"
            )
        self._complete.add(name)
        self._name, self._content = "", bytearray()
        return content


async def _next(requests: AsyncIterator[pb.AddVersionRequest]) -> pb.AddVersionRequest | None:
    """The next message; None at the end. Raises ``DeadlineExceeded`` after ``UPLOAD_TIMEOUT_S``."""
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing was received for {UPLOAD_TIMEOUT_S:.0f} s; send the model again"
        ) from None


def model_service(store: Store) -> AbstractContextManager[str]:
    """``ModelService`` alone, on loopback, until the block ends; gives its address.

    For a command on the machine where the store is: it loads no model, works on no job and trains
    nothing, so it may run beside a server of the same store.
    """

    def register(server: Any, stopping: asyncio.Event) -> Callable[[], None]:
        servicer = ModelServicer(store, None, stopping)
        models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
        return servicer.close

    return running_service("models", register)
