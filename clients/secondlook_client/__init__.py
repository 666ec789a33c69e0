"""Client of the secondlook labelling service; needs no torch and nothing of the service.

    from secondlook_client import Client

    with Client("127.0.0.1:50051") as client:
        for label in client.label("street.jpg", classes=["person wearing glasses"]).labels:
            print(label.class_name, label.box, label.p_yes)

``AsyncClient`` is the same for event loops; ``errors`` has every error that a call can raise.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook_client.async_client import AsyncClient
    from secondlook_client.async_stream import AsyncLiveStream
    from secondlook_client.capture import CaptureState, CaptureStream
    from secondlook_client.classes import ClassSpec
    from secondlook_client.client import Client
    from secondlook_client.errors import ClientError
    from secondlook_client.job_values import (
        Job,
        JobFailure,
        JobNews,
        JobResult,
        JobState,
        PathCounts,
        Uploaded,
    )
    from secondlook_client.live import LiveOptions
    from secondlook_client.results import (
        FrameResult,
        Judgement,
        LabelPath,
        LabelResult,
        Outcome,
        ServerInfo,
    )
    from secondlook_client.retry import RetryPolicy
    from secondlook_client.spool import SpoolLimits
    from secondlook_client.stream import LiveStream

__all__ = [
    "AsyncClient",
    "AsyncLiveStream",
    "CaptureState",
    "CaptureStream",
    "ClassSpec",
    "Client",
    "ClientError",
    "FrameResult",
    "Job",
    "JobFailure",
    "JobNews",
    "JobResult",
    "JobState",
    "Judgement",
    "LabelPath",
    "LabelResult",
    "LiveOptions",
    "LiveStream",
    "Outcome",
    "PathCounts",
    "RetryPolicy",
    "ServerInfo",
    "SpoolLimits",
    "Uploaded",
]

_MODULES = {
    "AsyncClient": "async_client",
    "AsyncLiveStream": "async_stream",
    "CaptureState": "capture",
    "CaptureStream": "capture",
    "ClassSpec": "classes",
    "Client": "client",
    "ClientError": "errors",
    "FrameResult": "results",
    "Job": "job_values",
    "JobFailure": "job_values",
    "JobNews": "job_values",
    "JobResult": "job_values",
    "JobState": "job_values",
    "Judgement": "results",
    "LabelPath": "results",
    "LabelResult": "results",
    "LiveOptions": "live",
    "LiveStream": "stream",
    "Outcome": "results",
    "PathCounts": "job_values",
    "RetryPolicy": "retry",
    "ServerInfo": "results",
    "SpoolLimits": "spool",
    "Uploaded": "job_values",
}
"""Where each name is; imported at its first use, so that values and errors need no gRPC."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
