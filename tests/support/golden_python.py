"""The Python client's part of the golden scenario: a step in, what came of it out.

``clients/go/internal/golden`` and ``clients/ts/src/golden.ts`` are the same for those clients.
"""

import hashlib
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory

from secondlook_client import CaptureStream, Client, LabelResult, LiveStream
from secondlook_client.calls import run
from secondlook_client.errors import BadSetting, NotAllowed, SecondlookError
from secondlook_client.v1 import (
    browse_pb2,
    datasets_pb2,
    jobs_pb2,
    labeling_pb2,
    models_pb2,
    reviews_pb2,
)

PROTOS = (browse_pb2, datasets_pb2, jobs_pb2, labeling_pb2, models_pb2, reviews_pb2)
"""Imported, so that the pool has their services."""
CALL_S, FLUSH_S = 60.0, 20.0
Step = dict[str, Any]


class PythonReplayer:
    """Makes each step with the Python client; ``folder`` is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients: dict[str, Client] = {}
        self._streams: dict[str, LiveReplay | CaptureReplay] = {}

    def outcome(self, step: Step) -> Any:
        """What came of a step, or the error that it ended with."""
        act: Callable[[Step], Any] = getattr(self, f"_{step['do']}")
        try:
            return act(step)
        except BadSetting as refused:
            return {"refused": str(refused)}
        except SecondlookError as failed:
            hint = bool(failed.retry_after_s)
            told = {"code": failed.status, "reason": failed.reason, "message": str(failed)}
            return {"error": told | {"hint": hint}}

    def close(self) -> None:
        """Hang up."""
        for client in self._clients.values():
            client.close()

    def _connect(self, step: Step) -> Any:
        access = {name: step[name] for name in ("token", "ca") if step.get(name)}
        self._clients[step["as"]] = Client(step["address"], **access)
        return {}

    def _call(self, step: Step) -> Any:
        service = descriptor_pool.Default().FindServiceByName(f"secondlook.v1.{step['service']}")
        method = service.FindMethodByName(step["method"])
        request_class = message_factory.GetMessageClass(method.input_type)
        answer_class = message_factory.GetMessageClass(method.output_type)
        client = self._clients[step["as"]]
        call = client._channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=answer_class.FromString,
        )
        request = json_format.ParseDict(step["request"], request_class())
        answer = run(client._answer(call, request, step.get("seconds", CALL_S)))
        return json_format.MessageToDict(answer)

    def _label(self, step: Step) -> Any:
        result = self._clients[step["as"]].label(
            b64decode(step["image"]),
            classes=step.get("classes"),
            name=step.get("name", ""),
            keep=step.get("keep", ""),
            timeout_s=step.get("seconds", CALL_S),
        )
        return labelled(result)

    def _open(self, step: Step) -> Any:
        client, classes, name = self._clients[step["as"]], step.get("classes"), step["name"]
        if step["mode"] == "LIVE":
            stream = client.stream(classes=classes, stream_id=name)
            self._streams[step["stream"]] = LiveReplay(stream)
        else:
            self._streams[step["stream"]] = CaptureReplay(client, name, self._folder / "spool")
        return {}

    def _send(self, step: Step) -> Any:
        for image in step["images"]:
            self._streams[step["stream"]].send(b64decode(image), step.get("name", ""))
        return {}

    def _answers(self, step: Step) -> Any:
        return self._streams[step["stream"]].answers(step["count"])

    def _finish(self, step: Step) -> Any:
        return self._streams.pop(step["stream"]).finish()

    def _pull(self, step: Step) -> Any:
        return [
            {
                "sha256": example.sha256,
                "name": example.name,
                "split": example.split,
                "boxes": len(example.boxes),
                "bytes": len(example.content),
            }
            for example in self._clients[step["as"]].datasets.pull(step["snapshot"])
        ]

    def _fetch(self, step: Step) -> Any:
        folder = self._folder / f"{step['as']}-{step['model']}"
        models = self._clients[step["as"]].models
        model = models.download(step["model"], step.get("version", 0), folder)
        digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in model.files}
        return {"version": model.version, "files": digests}

    def _review(self, step: Step) -> Any:
        reviews, person = self._clients[step["as"]].reviews, step["person"]
        items = reviews.next(step["queue"], person=person)
        if not items:
            return {"asked": ""}
        kept = reviews.answer(items[0], step["answer"].lower(), person=person)
        said = f"REVIEW_ANSWER_{kept.answer.name}"
        return {"asked": items[0].class_name, "kept": said, "person": kept.person}


class LiveReplay:
    """A live stream, read as far as a step says."""

    def __init__(self, stream: LiveStream) -> None:
        self._stream = stream

    def send(self, image: bytes, name: str) -> None:
        """Offer a frame."""
        self._stream.send(image, name=name)

    def answers(self, count: int) -> list[Any]:
        """The next answers, by number."""
        return self._told(next(self._stream) for _ in range(count))

    def finish(self) -> list[Any]:
        """The answers that are left."""
        self._stream.finish()
        return self._told(self._stream)

    def _told(self, results: Any) -> list[Any]:
        found = []
        for result in results:
            if result.result:
                kind: Any = {"labelled": labelled(result.result)}
            elif result.error:
                kind = {"failure": {"reason": result.error.reason, "message": str(result.error)}}
            else:
                kind = {"dropped": True}
            found.append({"sequence": result.sequence} | kind)
        return sorted(found, key=lambda one: int(one["sequence"]))


class CaptureReplay:
    """A captured stream. Its client tells of refused frames; all others are stored."""

    def __init__(self, client: Client, name: str, folder: Path) -> None:
        self._sent: list[int] = []
        self._refused: dict[int, SecondlookError] = {}
        self._stream: CaptureStream = client.capture(
            name, spool=folder / name, on_refused=self._refused.__setitem__
        )

    def send(self, image: bytes, name: str) -> None:
        """Put a frame into the spool."""
        sequence = self._stream.send(image, name=name)
        assert sequence is not None, "the spool is full"
        self._sent.append(sequence)

    def answers(self, count: int) -> list[Any]:
        """What became of the frames that were sent since the last answers."""
        if count:
            self._flush()
        sent, self._sent = self._sent, []
        return [{"sequence": number} | self._told(number) for number in sent]

    def finish(self) -> list[Any]:
        """The answers that are left."""
        try:
            return self.answers(len(self._sent))
        finally:
            self._stream.close()

    def _flush(self) -> None:
        """Wait until everything is stored or refused, or nothing will be."""
        ends = time.monotonic() + FLUSH_S
        while True:
            try:
                return self._stream.flush(0.1)
            except NotAllowed:
                raise
            except SecondlookError:
                if time.monotonic() > ends:
                    raise

    def _told(self, number: int) -> Any:
        if why := self._refused.get(number):
            return {"failure": {"reason": why.reason, "message": str(why)}}
        return {"stored": True}


def labelled(result: LabelResult) -> Any:
    """The labels of an image."""
    return {
        "name": result.name,
        "sha256": result.sha256,
        "size": [result.width, result.height],
        "labels": [
            {"class": one.class_name, "box": list(one.box), "probability": one.probability}
            for one in result.labels
        ],
    }
