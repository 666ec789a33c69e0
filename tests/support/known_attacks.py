"""Attacks that have stopped a server before, each with what it is measured by."""

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import grpc
from attacked_server import AttackedServer
from PIL import Image as PILImage
from random_frames import DATA, HEADERS, call_headers, frame, opened
from serving import png

from secondlook_client import Client
from secondlook_client.v1 import datasets_pb2, jobs_pb2, labeling_pb2, labeling_pb2_grpc
from secondlook_client.v1.datasets_pb2_grpc import DatasetServiceStub
from secondlook_client.v1.jobs_pb2_grpc import JobServiceStub

CLASSES = labeling_pb2.Ontology(classes=[labeling_pb2.ClassSpec(name="ball")])
LABEL = "/secondlook.v1.LabelingService/Label"


def scan_bomb(side: int = 8000, scans: int = 100_000) -> bytes:
    """A baseline JPEG with many empty scans: ten bytes each, and a pass over the whole image."""
    out = io.BytesIO()
    PILImage.new("RGB", (16, 16)).save(out, "JPEG", quality=50, subsampling=0)
    sound = out.getvalue()
    tables, place = b"", 2
    while sound[place + 1] != 0xDA:  # start of scan
        length = 2 + struct.unpack(">H", sound[place + 2 : place + 4])[0]
        if sound[place + 1] in (0xDB, 0xC4):  # quantization and Huffman tables
            tables += sound[place : place + length]
        place += length
    components = bytes([1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1])
    head = _segment(0xC0, struct.pack(">BHHB", 8, side, side, 3) + components)
    first, second, third = (
        _segment(0xDA, bytes([1, number, 0x00 if number == 1 else 0x11, 0, 63, 0]))
        for number in (1, 2, 3)
    )
    return b"\xff\xd8" + tables + head + first + second + third + first * scans + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def flat_png(side: int = 8000) -> bytes:
    """A large plain image with transparency, a quarter of a megabyte."""
    out = io.BytesIO()
    PILImage.new("RGBA", (side, side), (1, 2, 3, 128)).save(out, "PNG", compress_level=9)
    return out.getvalue()


@dataclass(frozen=True)
class Effect:
    """What an attack did to the others."""

    label_s: float
    """Until a sound image was labelled meanwhile."""
    worst_wait_s: float
    """Of health."""
    peak_mb: float
    growth_mb: float
    """Of the memory, beside what the server takes at rest."""
    statuses: tuple[str, ...]
    """Of the attack's own calls."""


@contextmanager
def measured(server: AttackedServer, effects: list[Effect]) -> Iterator[list[str]]:
    """Run an attack in the block, which collects the statuses of its calls."""
    server.forget()
    statuses: list[str] = []
    yield statuses
    began = time.monotonic()
    with Client(server.address) as client:
        client.label(png(), classes=["ball"])
    label_s = time.monotonic() - began
    time.sleep(0.3)  # health is asked once more
    effects.append(_effect(server, label_s, statuses))


def images_at_once(server: AttackedServer, image: bytes, count: int, timeout_s: float) -> Effect:
    """Label the same image many times at once; the sound one is sent a second later."""
    effects: list[Effect] = []
    request = labeling_pb2.LabelRequest(image=image, ontology=CLASSES)
    with server.channel() as channel, measured(server, effects) as statuses:
        label = labeling_pb2_grpc.LabelingServiceStub(channel).Label
        calls = [label.future(request, timeout=timeout_s) for _ in range(count)]
        watchers = [
            threading.Thread(target=lambda call=call: statuses.append(_status(call.result)))
            for call in calls
        ]
        for watcher in watchers:
            watcher.start()
        time.sleep(1)
    for watcher in watchers:
        watcher.join()
    return _effect(server, effects[0].label_s, statuses)


def _effect(server: AttackedServer, label_s: float, statuses: list[str]) -> Effect:
    return Effect(label_s, server.worst_wait_s, server.peak_mb, server.growth_mb, tuple(statuses))


def huge_ontology(server: AttackedServer, classes: int = 500_000) -> Effect:
    """A request with as many classes, three bytes each."""
    one = labeling_pb2.ClassSpec(name="a").SerializeToString()
    ontology = labeling_pb2.Ontology.FromString((b"\n" + bytes([len(one)]) + one) * classes)
    request = labeling_pb2.LabelRequest(image=b"x", ontology=ontology)
    return _one_call(
        server, lambda channel: labeling_pb2_grpc.LabelingServiceStub(channel).Label, request
    )


def many_runs(server: AttackedServer, runs: int = 40_000) -> Effect:
    """A snapshot of as many runs."""
    query = datasets_pb2.SnapshotQuery(runs=[str(number) for number in range(runs)])
    request = datasets_pb2.CreateSnapshotRequest(name="s", query=query)
    return _one_call(server, lambda channel: DatasetServiceStub(channel).CreateSnapshot, request)


def many_reasons(server: AttackedServer, reasons: int = 300_000) -> Effect:
    """Failures of as many kinds to retry."""
    request = jobs_pb2.RetryJobRequest(job="a", reasons=[str(n) for n in range(reasons)])
    return _one_call(server, lambda channel: JobServiceStub(channel).RetryJob, request)


def _one_call(
    server: AttackedServer, method: Callable[[grpc.Channel], Callable[..., object]], request: object
) -> Effect:
    effects: list[Effect] = []
    with server.channel() as channel, measured(server, effects) as statuses:
        statuses.append(_status(lambda: method(channel)(request, timeout=300)))
    return effects[0]


def unfinished_messages(server: AttackedServer, count: int, megabytes: int = 60) -> Effect:
    """As many messages of which all but the last byte is sent, as far as the server reads."""
    effects: list[Effect] = []
    connections = [opened(server.address) for _ in range(count)]
    with measured(server, effects):
        senders = [
            threading.Thread(target=_all_but_the_end, args=(connection, megabytes * 2**20))
            for connection in connections
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    for connection in connections:
        connection.close()
    return effects[0]


def _all_but_the_end(connection: socket.socket, size: int) -> None:
    left, of_connection, of_stream, first, read = size - 1, 65_535, 65_535, True, b""
    connection.settimeout(5)
    with suppress(OSError):  # refused, or never given room
        connection.sendall(frame(HEADERS, 4, 1, call_headers(LABEL)))
        while left > 0:
            part = min(16_384, left, of_connection, of_stream)
            if part > 0:
                body = bytes(part)
                if first:
                    body, first = (b"\0" + struct.pack(">I", size) + body)[:part], False
                connection.sendall(frame(DATA, 0, 1, body))
                left, of_connection, of_stream = left - part, of_connection - part, of_stream - part
                continue
            received = connection.recv(65_536)
            if not received:
                return
            read += received
            while len(read) >= 9 and len(read) >= 9 + int.from_bytes(read[:3], "big"):
                length = int.from_bytes(read[:3], "big")
                kind, flags, stream = read[3], read[4], int.from_bytes(read[5:9], "big")
                content, read = read[9 : 9 + length], read[9 + length :]
                if kind == 8 and stream:  # WINDOW_UPDATE
                    of_stream += int.from_bytes(content, "big")
                elif kind == 8:
                    of_connection += int.from_bytes(content, "big")
                elif kind == 4 and not flags & 1:  # SETTINGS
                    for place in range(0, length, 6):
                        if content[place : place + 2] == b"\0\4":
                            of_stream += int.from_bytes(content[place + 2 : place + 6], "big")
                            of_stream -= 65_535
                    connection.sendall(frame(4, 1, 0, b""))
                elif kind == 6 and not flags & 1:  # PING
                    connection.sendall(frame(6, 1, 0, content))


def _status(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as failure:
        return failure.code().name
    return "OK"
