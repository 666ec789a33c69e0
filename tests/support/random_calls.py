"""Random calls of every method of every service, from several threads, against one server."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from random_messages import MessageMaker
from serving import png

from secondlook_client import wire
from secondlook_client.masks import Mask
from secondlook_client.v1 import (
    browse_pb2,
    datasets_pb2,
    jobs_pb2,
    labeling_pb2,
    models_pb2,
    reviews_pb2,
    segmentation_pb2,
)

FILES = (
    labeling_pb2,
    segmentation_pb2,
    jobs_pb2,
    datasets_pb2,
    models_pb2,
    reviews_pb2,
    browse_pb2,
)
_CLASSES = labeling_pb2.Ontology(classes=[labeling_pb2.ClassSpec(name="ball")])
_IMAGES = tuple(png(shade=shade) for shade in range(100, 140))
"""Reviews are of all of them: those of one image are read together with it."""
_PNG = _IMAGES[0]
_MASK = wire.mask_message(Mask.from_runs(40, 30, [100, 60, 1040]))
SOUND: Mapping[str, Sequence[Sequence[Message]]] = {
    "Label": [
        [labeling_pb2.LabelRequest(image=_PNG, ontology=_CLASSES)],
        *(
            [labeling_pb2.LabelRequest(image=image, ontology=_CLASSES, keep="a")]
            for image in _IMAGES
        ),
    ],
    "LabelStream": [
        [
            labeling_pb2.LabelStreamRequest(
                opening=labeling_pb2.StreamOpening(stream_id="b", mode=mode, ontology=_CLASSES)
            ),
            *(
                labeling_pb2.LabelStreamRequest(
                    frame=labeling_pb2.StreamFrame(sequence=number, image=_PNG)
                )
                for number in range(3)
            ),
        ]
        for mode in (labeling_pb2.STREAM_MODE_LIVE, labeling_pb2.STREAM_MODE_CAPTURE)
    ],
    "CreateJob": [
        [jobs_pb2.CreateJobRequest(name=name, ontology=_CLASSES, upload=jobs_pb2.UploadSource())]
        for name in ("a", "c", "street", "1")
    ],
    "GetJob": [[jobs_pb2.GetJobRequest(job=job)] for job in ("a", "street")],
    "UploadImage": [
        [jobs_pb2.UploadImageRequest(job=job, name="x", image=_PNG)] for job in ("a", "street")
    ],
    "CreateSnapshot": [
        [
            datasets_pb2.CreateSnapshotRequest(
                name=name,
                query=datasets_pb2.SnapshotQuery(runs=["a"]),
            )
        ]
        for name in ("a", "b")
    ],
    "CreateReviewQueue": [
        [reviews_pb2.CreateReviewQueueRequest(name=name, run=run)]
        for name, run in (("a", "a"), ("b", "street"))
    ],
    "NextReviewItems": [[reviews_pb2.NextReviewItemsRequest(queue="a", person="b", count=3)]],
    "AnswerReviewItem": [
        [
            reviews_pb2.AnswerReviewItemRequest(
                item=item, person="b", answer=reviews_pb2.REVIEW_ANSWER_WRONG, new_class="ball"
            )
        ]
        for item in (1, 2, 3)
    ],
    "AddReviews": [
        [
            reviews_pb2.AddReviewsRequest(
                reviews=[
                    reviews_pb2.NewReview(
                        image=hashlib.sha256(image).hexdigest(),
                        class_name="ball",
                        box=labeling_pb2.Box(x2=5, y2=5),
                        answer=reviews_pb2.REVIEW_ANSWER_MISSING,
                        person="b",
                        mask=_MASK,
                    )
                ]
            )
        ]
        for image in _IMAGES
    ],
    "ListRunImages": [
        [browse_pb2.ListRunImagesRequest(run="a", order=order, boxes=[1, 3])] for order in range(6)
    ],
    "SummarizeRun": [[browse_pb2.SummarizeRunRequest(run="a")]],
    "GetRunImages": [[browse_pb2.GetRunImagesRequest(run="a", cursors=[1, 2])]],
    "ExplainLabel": [[browse_pb2.ExplainLabelRequest(label_id="1.0")]],
    "PreviewDecisions": [
        [
            browse_pb2.PreviewDecisionsRequest(
                run="a",
                cursors=[1, 2],
                classes=[browse_pb2.ClassThresholds(accept=0.7)],
                count=count,
            )
        ]
        for count in (False, True)
    ],
    "OpenImage": [[segmentation_pb2.OpenImageRequest(image=_PNG)]],
    "Segment": [
        [
            segmentation_pb2.SegmentRequest(
                sha256=hashlib.sha256(_PNG).hexdigest(),
                box=labeling_pb2.Box(x2=5, y2=5),
                clicks=[segmentation_pb2.Click(x=3, y=4, inside=True)],
                previous=_MASK,
            )
        ]
    ],
}
"""Sound requests of the methods for which a wholly random one is nearly always refused."""
SOUND_SHARE = 0.5
"""Of the calls of these methods: begin with a sound request."""
DEADLINE_S = 0.5
"""Of a call that may go on for ever."""
UNARY_DEADLINE_S = 30.0
MOST_ANSWERS = 20
THREADS = 8
ALLOWED = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
        "OUT_OF_RANGE",
        "ABORTED",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "DATA_LOSS",
    }
)
"""What a client's input may lead to: never UNKNOWN or INTERNAL."""
SECRETS = ("Traceback", 'File "', "site-packages", "sqlalchemy", "sqlite3.", "psycopg")
"""Never told to a client."""


def every_method() -> tuple[MethodDescriptor, ...]:
    """All methods that the protos declare."""
    return tuple(
        method
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    )


@dataclass
class Outcomes:
    """What became of the calls."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By method and status code."""
    messages: int = 0
    """That were sent: a call may send several, or none."""
    offences: list[str] = field(default_factory=list)
    """Answers that no input may have."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, method: str, requests: int, status: str, message: str) -> None:
        """What one call of so many requests came to."""
        with self.lock:
            self.messages += requests
            self.statuses[method, status] += 1
            if status not in ALLOWED or any(secret in message for secret in SECRETS):
                self.offences.append(f"{method}: {status}: {message[:300]}")

    @property
    def calls(self) -> int:
        return sum(self.statuses.values())


def attack_calls(
    address: str,
    calls: int,
    seed: int,
    contents: Sequence[bytes],
    threads: int = THREADS,
    credentials: grpc.ChannelCredentials | None = None,
) -> Outcomes:
    """Make ``calls`` calls, each of a random method with random messages.

    ``credentials``: of TLS, with or without a token.
    """
    outcomes = Outcomes()
    shares = [calls // threads + (number < calls % threads) for number in range(threads)]
    workers = [
        threading.Thread(
            target=_attack,
            args=(address, share, seed * 1000 + number, contents, outcomes, credentials),
        )
        for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcomes


def _attack(
    address: str,
    calls: int,
    seed: int,
    contents: Sequence[bytes],
    outcomes: Outcomes,
    credentials: grpc.ChannelCredentials | None,
) -> None:
    maker, methods = MessageMaker(seed, contents), every_method()
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    opened = (
        grpc.secure_channel(address, credentials, options=options)
        if credentials
        else grpc.insecure_channel(address, options=options)
    )
    with opened as channel:
        for _ in range(calls):
            method = maker.random.choice(methods)
            requests = _requests(maker, method)
            outcomes.add(method.name, len(requests), *one_call(channel, method, requests))


def _requests(maker: MessageMaker, method: MethodDescriptor) -> list[bytes]:
    """One message, or for a stream of requests a few."""
    sound = SOUND.get(method.name)
    if sound and maker.random.random() < SOUND_SHARE:
        return [maker.encoded(maker.altered(one)) for one in maker.random.choice(sound)]
    count = maker.random.randint(0, 6) if method.client_streaming else 1
    return [maker.encoded(maker.message(method.input_type)) for _ in range(count)]


def one_call(
    channel: grpc.Channel, method: MethodDescriptor, requests: list[bytes]
) -> tuple[str, str]:
    """Status and message of a call with these bytes."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    lasting = method.server_streaming or method.client_streaming
    deadline = DEADLINE_S if lasting else UNARY_DEADLINE_S
    try:
        if method.client_streaming and method.server_streaming:
            _drain(channel.stream_stream(path)(iter(requests), timeout=deadline))
        elif method.client_streaming:
            channel.stream_unary(path)(iter(requests), timeout=deadline)
        elif method.server_streaming:
            _drain(channel.unary_stream(path)(requests[0], timeout=deadline))
        else:
            channel.unary_unary(path)(requests[0], timeout=deadline)
    except grpc.RpcError as failure:
        return failure.code().name, failure.details() or ""
    return "OK", ""


def _drain(answers: Any) -> None:
    for _, _ in zip(range(MOST_ANSWERS), answers, strict=False):
        pass
    answers.cancel()


def abandoned_calls(address: str, calls: int, seed: int, contents: Sequence[bytes]) -> None:
    """Calls whose caller goes away at a random moment."""
    maker, methods, draw = MessageMaker(seed, contents), every_method(), random.Random(seed)
    with grpc.insecure_channel(address) as channel:
        for _ in range(calls):
            method = draw.choice(methods)
            if method.client_streaming:
                continue
            path = f"/{method.containing_service.full_name}/{method.name}"
            begin = channel.unary_stream if method.server_streaming else channel.unary_unary
            request = _requests(maker, method)[0]
            call = begin(path)
            started = call(request, timeout=5) if method.server_streaming else call.future(request)
            time.sleep(draw.random() * 0.01)
            started.cancel()
