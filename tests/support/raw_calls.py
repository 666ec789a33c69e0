"""Calls over raw HTTP/2 that stop where a gRPC client would go on."""

import re
import socket
import struct
from contextlib import suppress

from random_frames import DATA, HEADERS, SETTINGS, WINDOW, call_headers, frame, opened

LABEL = "/secondlook.v1.LabelingService/Label"
LABEL_STREAM = "/secondlook.v1.LabelingService/LabelStream"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
STATUS = re.compile(rb"grpc-status[\x01\x02](\d+)")
"""Of trailers, whose values are not compressed where they are short."""
INITIAL_WINDOW_SIZE = 4
"""Of the settings of HTTP/2."""
LARGEST_FRAME = 16_384
WINDOW_BYTES = 65_535
"""That may be sent before the server allows more."""


class RawCall:
    """One call on a connection of its own; a context manager."""

    def __init__(self, address: str, path: str) -> None:
        """Only the headers are sent."""
        self.connection = opened(address)
        self.connection.sendall(frame(HEADERS, 4, 1, call_headers(path)))
        self._received = b""
        self._parsed = self._sent = 0
        self._initial = WINDOW_BYTES
        self._allowed = {0: WINDOW_BYTES, 1: WINDOW_BYTES}
        """Bytes that may be sent in all, on the connection (0) and on the stream."""
        self._window = WINDOW_BYTES
        """What may still be sent."""
        self._alive = True

    def __enter__(self) -> "RawCall":
        return self

    def __exit__(self, *failure: object) -> None:
        self.connection.close()

    def announce(self, size: int) -> None:
        """Begin a message of that many bytes."""
        self._send(b"\0" + struct.pack(">I", size), last=False)

    def send(self, size: int) -> int:
        """Go on with that many bytes; fewer are sent when the call ends meanwhile."""
        sent = 0
        while sent < size and not STATUS.search(self._received):
            count = min(size - sent, LARGEST_FRAME, self._window)
            if count and not self._send(bytes(count), last=False):
                break
            sent += count
            if not count and not self._read(5.0):
                break
        return sent

    def send_whole(self, message: bytes) -> None:
        """A whole message, and the end of what is sent."""
        self._send(b"\0" + struct.pack(">I", len(message)) + message, last=True)

    def status(self, timeout_s: float = 10.0) -> int | None:
        """Number of the call's status once it has ended; None while it has not."""
        while not (found := STATUS.search(self._received)):
            if not self._read(timeout_s):
                return None
        return int(found[1])

    def ended(self) -> bool:
        """Whether the connection was closed, or the call has a status."""
        return self.status(0.01) is not None or not self._alive

    def _send(self, body: bytes, *, last: bool) -> bool:
        self._sent += len(body)
        self._window -= len(body)
        with suppress(OSError):
            self.connection.sendall(frame(DATA, int(last), 1, body))
            return True
        return False

    def _read(self, timeout_s: float) -> bool:
        self.connection.settimeout(timeout_s)
        try:
            got = self.connection.recv(65_536)
        except TimeoutError:
            return False
        except OSError:
            got = b""
        self._alive = bool(got)
        self._received += got
        self._take_windows()
        return self._alive

    def _take_windows(self) -> None:
        """Widen this side's window by what the server allowed for the stream and connection."""
        rest = self._received[self._parsed :]
        while len(rest) >= 9 and len(rest) >= 9 + (size := int.from_bytes(rest[:3], "big")):
            kind, flags, stream = rest[3], rest[4], int.from_bytes(rest[5:9], "big")
            body, rest = rest[9 : 9 + size], rest[9 + size :]
            self._parsed += 9 + size
            if kind == WINDOW and stream in self._allowed:
                self._allowed[stream] += int.from_bytes(body, "big")
            elif kind == SETTINGS and not flags & 1:
                for name, value in struct.iter_unpack(">HI", body):
                    if name == INITIAL_WINDOW_SIZE:
                        self._allowed[1] += value - self._initial
                        self._initial = value
                with suppress(OSError):
                    self.connection.sendall(frame(SETTINGS, 1, 0, b""))
        self._window = min(self._allowed.values()) - self._sent


def silent_connection(address: str) -> socket.socket:
    """A connection that says nothing at all."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=5.0)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
