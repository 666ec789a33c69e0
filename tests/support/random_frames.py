"""Raw HTTP/2 against a gRPC server: frames as they should be, and as nobody should send them."""

import contextlib
import random
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
TIMEOUT_S = 5.0


def frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """One frame; ``length`` may lie about the body."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def call_headers(path: str) -> bytes:
    """The header block of a gRPC call, without compression."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


def opened(address: str) -> socket.socket:
    """A connection that has begun to speak HTTP/2."""
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return connection


def attack_frames(address: str, frames: int, seed: int, paths: tuple[str, ...]) -> int:
    """Send about so many frames over many connections; how many were sent."""
    draw, sent = random.Random(seed), 0
    while sent < frames:
        with contextlib.suppress(OSError), opened(address) as connection:
            for _ in range(draw.randint(1, 12)):
                sent += 1
                connection.sendall(_random_frame(draw, paths))
    return sent


def _random_frame(draw: random.Random, paths: tuple[str, ...]) -> bytes:
    chance = draw.random()
    stream = draw.choice((0, 1, 3, 5, 7, 2, 2**31 - 1))
    if chance < 0.4:
        headers = call_headers(draw.choice(paths))
        return frame(HEADERS, draw.choice((4, 5, 0)), stream, headers)
    if chance < 0.7:
        body = draw.randbytes(draw.randrange(64))
        announced = draw.choice((len(body), 0, 2**26, 2**32 - 1))
        message = bytes([draw.choice((0, 0, 1, 255))]) + struct.pack(">I", announced) + body
        return frame(DATA, draw.choice((0, 1, 8)), stream, message)
    kind, body = draw.randrange(12), draw.randbytes(draw.choice((0, 4, 6, 8, 40)))
    length = draw.choice((None, None, None, 2**24 - 1))
    return frame(kind, draw.randrange(256), stream, body, length)
