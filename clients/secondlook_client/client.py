"""The client for plain code. ``AsyncClient`` is its twin for event loops."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from secondlook_client import messages
from secondlook_client.capture import CaptureStream
from secondlook_client.channel import DEFAULT_ADDRESS, OPTIONS, key_name
from secondlook_client.classes import Classes
from secondlook_client.datasets import Datasets
from secondlook_client.errors import ClientError
from secondlook_client.jobs import Jobs
from secondlook_client.live import LiveOptions
from secondlook_client.many import Many
from secondlook_client.messages import ImageInput
from secondlook_client.models import Models
from secondlook_client.results import LabelResult, ServerInfo
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.spool import Spool, SpoolLimits
from secondlook_client.stream import LiveStream
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

Key = TypeVar("Key")


class Client:
    """A connection to one server; thread-safe, and a context manager.

        with Client("127.0.0.1:50051") as client:
            result = client.label("street.jpg", classes=["person wearing glasses"])
            print(result.labels)

    It connects at the first call. Every call raises a ``ClientError`` (see ``errors``).
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, retry: RetryPolicy | None = None) -> None:
        self.address = address
        self._retry = retry or RetryPolicy()
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = labeling_pb2_grpc.LabelingServiceStub(self._channel)
        self.jobs = Jobs(self._channel, self._retry, address)
        """Many images at a time, by a server that keeps what it does."""
        self.datasets = Datasets(self._channel, self._retry, address)
        """Snapshots of such a server; for training see ``dataset.SnapshotDataset``."""
        self.models = Models(self._channel, self._retry, address)
        """Small detectors trained on them: what devices fetch."""

    def label(
        self,
        image: ImageInput,
        *,
        classes: Classes | None = None,
        name: str = "",
        detail: str = "all",
        timeout_s: float = 60.0,
    ) -> LabelResult:
        """Label one image, given as bytes or by path.

        ``classes`` None asks for the server's own; ``detail`` is ``all`` or only ``labels``;
        ``name`` (default: the file's) comes back with the result. ``timeout_s`` bounds all tries
        together.
        """
        request = pb.LabelRequest(
            image=messages.image_bytes(image),
            name=messages.image_name(image, name),
            ontology=messages.ontology(classes),
            detail=messages.detail_number(detail),
        )
        return messages.label_result(self._call(self._stub.Label, request, timeout_s).labelled)

    def label_many(
        self,
        items: Iterable[tuple[Key, ImageInput]],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        concurrency: int = 16,
        timeout_s: float = 60.0,
        name: Callable[[Key], str] | None = None,
    ) -> Iterator[tuple[Key, LabelResult | ClientError]]:
        """Label pairs of key and image; yields (key, result or error) as each is done.

        ``items`` may be endless: it is read only as far as ``concurrency`` images are under
        way, so memory does not grow with it. An image that fails is yielded with its error and
        the rest goes on. ``timeout_s`` is for each image; ``name(key)`` goes with it (default:
        the key, where that is a text or path). Leaving the loop cancels what is under way.
        """
        ontology, number = messages.ontology(classes), messages.detail_number(detail)
        named = name or key_name

        def request(key: Key, data: bytes) -> pb.LabelRequest:
            name = messages.sendable(named(key))
            return pb.LabelRequest(image=data, name=name, ontology=ontology, detail=number)

        def attempts() -> Attempts:
            return Attempts(self._retry, timeout_s, self.address)

        def read(response: pb.LabelResponse) -> LabelResult:
            return messages.label_result(response.labelled)

        return Many(self._stub.Label, request, read, attempts, concurrency).results(items)

    def info(self, *, timeout_s: float = 10.0) -> ServerInfo:
        """What runs at the other end."""
        request = pb.GetServerInfoRequest()
        return messages.server_info(self._call(self._stub.GetServerInfo, request, timeout_s))

    def stream(
        self,
        *,
        classes: Classes | None = None,
        detail: str = "all",
        stream_id: str = "",
        options: LiveOptions | None = None,
    ) -> LiveStream:
        """Open a live stream of frames; see ``LiveStream``."""
        options = options or LiveOptions()
        opening = messages.opening(classes, detail, stream_id, options.server_pending)
        return LiveStream(self._stub.LabelStream, opening, options, self._retry, self.address)

    def capture(
        self,
        stream_id: str,
        *,
        spool: str | Path,
        classes: Classes | None = None,
        limits: SpoolLimits | None = None,
        on_refused: Callable[[int, ClientError], None] | None = None,
    ) -> CaptureStream:
        """Open a captured stream; see ``CaptureStream``.

        ``stream_id`` names it on the server for ever, ``spool`` is its own folder here. ``classes``
        None asks for the server's own, or what the stream was begun with. Raises
        ``SpoolUnusable``.
        """
        opening = messages.capture_opening(classes, stream_id)
        held = Spool(Path(spool), limits)
        return CaptureStream(
            self._stub.LabelStream, opening, held, self._retry, self.address, on_refused
        )

    def close(self) -> None:
        """Cancel what is running and hang up."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        return Attempts(self._retry, timeout_s, self.address).call(method, request)
