"""``secondlook-edge`` that writes down what its spool promised, for a trial that kills it.

A line each, on disk before the agent goes on: ``put NUMBER`` once a frame is in the spool,
``ack NUMBER`` when the server has said that it has it, ``refused NUMBER`` when it never will.
"""

import os
import sys
from typing import Any

from secondlook.edge.cli import main
from secondlook_client import capture
from secondlook_client.spool import Spool
from secondlook_client.v1 import labeling_pb2 as pb


def record(path: str) -> None:
    """Append to the file at ``path`` from now on."""
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def told(word: str, number: object) -> None:
        os.write(out, f"{word} {number}\n".encode())

    put, answered, refuse = (
        Spool.put,
        capture.CaptureStream._answered,
        capture.CaptureStream._refuse,
    )

    def recorded_put(self: Spool, data: bytes, name: str = "") -> int | None:
        number = put(self, data, name)
        told("put", number)
        return number

    def recorded_answer(self: Any, answer: pb.FrameAnswer) -> None:
        if answer.HasField("stored"):
            told("ack", answer.sequence)
        answered(self, answer)

    def recorded_refusal(self: Any, sequence: int, why: Any) -> None:
        told("refused", sequence)
        refuse(self, sequence, why)

    Spool.put = recorded_put  # type: ignore[method-assign]
    capture.CaptureStream._answered = recorded_answer  # type: ignore[method-assign]
    capture.CaptureStream._refuse = recorded_refusal  # type: ignore[method-assign]


if __name__ == "__main__":
    record(os.environ["RECORDED"])
    main(sys.argv[1:])
