"""Client of the secondlook labelling service; needs no torch and nothing of the service.

    from secondlook_client import Client

    with Client("127.0.0.1:50051") as client:
        for label in client.label("street.jpg", classes=["person wearing glasses"]).labels:
            print(label.class_name, label.box, label.p_yes)

An image is a path, encoded bytes, a numpy array (RGB; ``bgr(frame)`` for OpenCV's) or a Pillow
image. ``AsyncClient`` is the same for event loops; ``errors`` has every error that a call can
raise.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook_client.capture import CaptureState, CaptureStream
    from secondlook_client.client import AsyncClient, Client
    from secondlook_client.errors import SecondlookError
    from secondlook_client.images import bgr, encode_image
    from secondlook_client.live import LiveOptions
    from secondlook_client.masks import Mask, Segmentation
    from secondlook_client.ontology import ClassSpec, Ontology
    from secondlook_client.retry import RetryPolicy
    from secondlook_client.spool import SpoolLimits
    from secondlook_client.stream import AsyncLiveStream, LiveStream
    from secondlook_client.values import (
        BoxSource,
        EmptyReason,
        FrameResult,
        Job,
        JobFailure,
        JobProgress,
        JobResult,
        JobState,
        Judgement,
        LabelPath,
        LabelResult,
        NewReview,
        Outcome,
        PathCounts,
        Review,
        ReviewAnswer,
        ReviewItem,
        ReviewQueue,
        ServerInfo,
        Uploaded,
        Verdict,
        View,
        WrongReason,
    )

__all__ = [
    "AsyncClient",
    "AsyncLiveStream",
    "BoxSource",
    "CaptureState",
    "CaptureStream",
    "ClassSpec",
    "Client",
    "EmptyReason",
    "FrameResult",
    "Job",
    "JobFailure",
    "JobProgress",
    "JobResult",
    "JobState",
    "Judgement",
    "LabelPath",
    "LabelResult",
    "LiveOptions",
    "LiveStream",
    "Mask",
    "NewReview",
    "Ontology",
    "Outcome",
    "PathCounts",
    "RetryPolicy",
    "Review",
    "ReviewAnswer",
    "ReviewItem",
    "ReviewQueue",
    "SecondlookError",
    "Segmentation",
    "ServerInfo",
    "SpoolLimits",
    "Uploaded",
    "Verdict",
    "View",
    "WrongReason",
    "bgr",
    "encode_image",
]

_MODULES = {
    "AsyncClient": "client",
    "AsyncLiveStream": "stream",
    "BoxSource": "values",
    "CaptureState": "capture",
    "CaptureStream": "capture",
    "ClassSpec": "ontology",
    "Client": "client",
    "EmptyReason": "values",
    "FrameResult": "values",
    "Job": "values",
    "JobFailure": "values",
    "JobProgress": "values",
    "JobResult": "values",
    "JobState": "values",
    "Judgement": "values",
    "LabelPath": "values",
    "LabelResult": "values",
    "LiveOptions": "live",
    "LiveStream": "stream",
    "Mask": "masks",
    "NewReview": "values",
    "Ontology": "ontology",
    "Outcome": "values",
    "PathCounts": "values",
    "RetryPolicy": "retry",
    "Review": "values",
    "ReviewAnswer": "values",
    "ReviewItem": "values",
    "ReviewQueue": "values",
    "SecondlookError": "errors",
    "Segmentation": "masks",
    "ServerInfo": "values",
    "SpoolLimits": "spool",
    "Uploaded": "values",
    "Verdict": "values",
    "View": "values",
    "WrongReason": "values",
    "bgr": "images",
    "encode_image": "images",
}
"""Where each name is; imported at its first use, so that values and errors need no gRPC."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
