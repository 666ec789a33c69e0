"""``secondlook-edge`` that logs what its spool acknowledged, for a trial that kills it.

One line per event, on disk before the agent goes on: ``put NUMBER`` once a frame is in the spool,
``ack NUMBER`` once the server has acknowledged it, ``refused NUMBER`` when it never will.
"""

import os
import sys
from typing import Any

from secondlook.edge.cli import main
from secondlook_client import capture
from secondlook_client.spool import Spool
from secondlook_client.v1 import labeling_pb2 as pb


def record(path: str) -> None:
    """Log to the file at ``path`` from now on."""
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(event: str, number: object) -> None:
        os.write(out, f"{event} {number}\n".encode())

    put, answered, refuse = (
        Spool.put,
        capture.CaptureStream._answered,
        capture.CaptureStream._refuse,
    )

    def recorded_put(self: Spool, data: bytes, name: str = "") -> int | None:
        number = put(self, data, name)
        write("put", number)
        return number

    def recorded_answer(self: Any, answer: pb.FrameAnswer) -> None:
        if answer.HasField("stored"):
            write("ack", answer.sequence)
        answered(self, answer)

    def recorded_refusal(self: Any, sequence: int, why: Any) -> None:
        write("refused", sequence)
        refuse(self, sequence, why)

    Spool.put = recorded_put  # type: ignore[method-assign]
    capture.CaptureStream._answered = recorded_answer  # type: ignore[method-assign]
    capture.CaptureStream._refuse = recorded_refusal  # type: ignore[method-assign]


if __name__ == "__main__":
    record(os.environ["RECORDED"])
    main(sys.argv[1:])
