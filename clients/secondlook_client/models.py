"""Models of a server: listing and fetching their versions, promoting them, training new ones."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc

from secondlook_client import model_folder, wire
from secondlook_client.calls import BlockingConnection, iterate, retried, run
from secondlook_client.errors import FolderUnusable, InvalidInput, NotFound
from secondlook_client.model_folder import PartFolder, SentFolder
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc
from secondlook_client.values import ModelVersion, Promotion, Training

CALL_S = 30.0
"""For a call that moves no file, all its tries included."""
ADD_S = 3600.0
PROMOTE_S = 3600.0
"""Two thousand images seen by two models take minutes."""
SILENCE_S = 120.0
"""How long a download may give nothing, all its tries included, before it is given up."""

Progress = Callable[[int, int], None]
"""Told (bytes that are here, bytes in all)."""


class Models(BlockingConnection):
    """The models of a server with a store; use ``Client.models``.

        newest = client.models.current("street")
        if newest and newest.version != running:
            client.models.download(newest.name, newest.version, Path("models/street-7"))

    Every call may be made again, and every call raises a ``SecondlookError``: ``NotFound`` for a
    model that is not there, ``NotSupported`` from a server without a store.
    """

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        super().__init__(channel, retry, address)
        self._stub = models_pb2_grpc.ModelServiceStub(channel)

    def current(self, name: str, *, timeout_s: float = CALL_S) -> ModelVersion | None:
        """What devices shall run; None where there is no such model or none was promoted yet."""
        try:
            return self.get(name, timeout_s=timeout_s)
        except NotFound:
            return None

    def get(
        self, name: str, version: int = 0, *, report: bool = False, timeout_s: float = CALL_S
    ) -> ModelVersion:
        """A version; 0 is the current one. ``report`` asks for the report too."""
        request = pb.GetModelRequest(name=name, version=_number(version), report=report)
        return wire.model_version(self._call(self._stub.GetModel, request, timeout_s).model)

    def list(self, name: str = "", *, timeout_s: float = CALL_S) -> Iterator[ModelVersion]:
        """All versions (of one model, unless empty), the newest first, page by page."""
        plan = self._listed(
            self._stub.ListModels,
            pb.ListModelsRequest(name=name),
            timeout_s,
            lambda page: map(wire.model_version, page.models),
        )
        yield from iterate(plan)

    def add(self, folder: str | Path, name: str = "", *, timeout_s: float = ADD_S) -> ModelVersion:
        """Keep a student folder as the next version of ``name`` (default: the manifest's).

        The same student is kept once: sent again, it has the version that it has. Raises
        ``InvalidInput`` for files that are not as their manifest says, and ``FolderUnusable``.
        """
        sent = SentFolder(Path(folder), name)
        attempts = self._attempts(timeout_s)
        while True:
            unread: list[OSError] = []
            try:
                response = self._stub.AddVersion(
                    _until_unread(sent.messages(), unread), timeout=attempts.left_s()
                )
                return wire.model_version(response.model)
            except grpc.RpcError as failed:
                if unread:
                    why = unread[0].strerror or type(unread[0]).__name__
                    raise FolderUnusable(f"{folder} cannot be read ({why})") from unread[0]
                wait_s = attempts.wait_s(failed)
            time.sleep(wait_s)

    def promote(
        self,
        name: str,
        version: int,
        *,
        force: bool = False,
        on_snapshot: str = "",
        timeout_s: float = PROMOTE_S,
    ) -> Promotion:
        """Make a version the current one, if it is as good on held-out images as the one before.

        They are those that the current version was measured on, or of ``on_snapshot``. Raises
        ``NotBetter`` with both figures; ``force`` promotes without looking.
        """
        request = pb.PromoteModelRequest(
            name=name, version=_number(version), force=force, on_snapshot=on_snapshot
        )
        return wire.promotion(self._call(self._stub.PromoteModel, request, timeout_s))

    def rollback(self, name: str, *, timeout_s: float = CALL_S) -> ModelVersion:
        """Go back to the version that was current before; the one that is current now.

        Raises ``NotFound`` when there is none before.
        """
        present = self.get(name, timeout_s=timeout_s)
        # Names what to go back from, so that an answer that was lost does not go back twice.
        request = pb.RollbackModelRequest(name=name, from_version=present.version)
        response = self._call(self._stub.RollbackModel, request, timeout_s)
        return wire.model_version(response.model)

    def download(
        self,
        name: str,
        version: int,
        folder: str | Path,
        files: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> ModelVersion:
        """Fetch a version (0: the current one) into ``folder``, which appears whole.

        ``files`` empty fetches all. What broke off is gone on with, by the next call too; each file
        is checked by size and SHA-256. A folder that holds this very version is left as it is.
        Raises ``Damaged`` for wrong bytes, which are discarded, ``FolderUnusable`` and
        ``InvalidInput`` for a file that the version does not have.
        """
        folder, model = Path(folder), self.get(name, version)
        wanted = tuple(files) or tuple(sorted(model.files))
        if unknown := [file for file in wanted if file not in model.files]:
            raise InvalidInput(
                f"version {model.version} of '{name}' has no file '{unknown[0]:.100}', only "
                f"{', '.join(sorted(model.files))}"
            )
        if model_folder.is_complete(folder, model, wanted):
            return model
        model_folder.prepare_folder(folder, model)
        total, done = sum(model.files[file][1] for file in wanted), 0

        def tell(here: int) -> None:
            if progress:
                progress(done + here, total)

        with PartFolder.opened(folder, model) as part:
            for file in wanted:
                self._fetch(model, file, part, tell)
                done += model.files[file][1]
            part.finish(folder, wanted)
        return model

    def train(
        self,
        model: str,
        snapshot: str,
        *,
        split: str = "",
        size: str = "",
        steps: int = 0,
        seed: int = 0,
        timeout_s: float = CALL_S,
    ) -> Training:
        """Train a student on a snapshot, by the server; its result is a new version of ``model``.

        ``split`` is held out; ``size`` is ``pico`` (where none is given), ``nano`` or ``small``. It
        is not tried again when no answer comes, as that would train twice: look at ``trainings``
        then.
        """
        request = pb.TrainModelRequest(
            model=model,
            snapshot=snapshot,
            split=split,
            size=size,
            steps=_number(steps),
            seed=_number(seed),
        )
        once = Attempts(RetryPolicy(unavailable_s=0), timeout_s, self.address)
        return wire.training(run(retried(once, self._stub.TrainModel, request)).training)

    def training(self, number: int, *, timeout_s: float = CALL_S) -> Training:
        """How a training stands."""
        request = pb.GetTrainingRequest(id=number)
        return wire.training(self._call(self._stub.GetTraining, request, timeout_s).training)

    def trainings(self, *, timeout_s: float = CALL_S) -> Iterator[Training]:
        """All trainings, the newest first, fetched page by page."""
        plan = self._listed(
            self._stub.ListTrainings,
            pb.ListTrainingsRequest(),
            timeout_s,
            lambda page: map(wire.training, page.trainings),
        )
        yield from iterate(plan)

    def watch(self, number: int) -> Iterator[Training]:
        """How a training stands, now and at each change, until it is over."""
        request = pb.WatchTrainingRequest(id=number)
        for response in self._responses(lambda: self._stub.WatchTraining(request)):
            yield wire.training(response.training)

    def cancel(self, number: int, *, timeout_s: float = CALL_S) -> Training:
        """Stop a training for good."""
        request = pb.CancelTrainingRequest(id=number)
        call = self._call(self._stub.CancelTraining, request, timeout_s)
        return wire.training(call.training)

    def _fetch(
        self, model: ModelVersion, file: str, part: PartFolder, tell: Callable[[int], None]
    ) -> None:
        """All of one file. What an earlier call left may be rotten: then once from the beginning.

        Raises ``Damaged``.
        """
        left_over = part.have(file) > 0
        while True:
            self._fetch_rest(model, file, part, tell)
            if part.whole(file):
                return
            part.discard(file)
            if not left_over:
                raise model_folder.wrong(file, model)
            left_over = False

    def _fetch_rest(
        self, model: ModelVersion, file: str, part: PartFolder, tell: Callable[[int], None]
    ) -> None:
        """What is missing of a file, over as many connections as it takes."""
        size = model.files[file][1]
        tell(here := part.have(file))

        def rest() -> Any:
            return self._stub.DownloadModel(
                pb.DownloadModelRequest(
                    name=model.name, version=model.version, file=file, offset=here
                )
            )

        with closing(self._responses(rest, SILENCE_S, lambda: here >= size)) as responses:
            for response in responses:
                if response.data:
                    tell(here := part.add(file, response.data))
        if here < size:
            raise model_folder.wrong(file, model)


def _until_unread(messages: Iterator[Any], unread: "list[OSError]") -> Iterator[Any]:
    """The messages; a file that cannot be read is noted, as gRPC would hide what happened."""
    try:
        yield from messages
    except OSError as failure:
        unread.append(failure)
        raise


def _number(value: int) -> int:
    """What the wire can hold. Raises ``InvalidInput``."""
    if not 0 <= value < 2**32:
        raise InvalidInput(f"expected a whole number from 0, got {value}")
    return value
