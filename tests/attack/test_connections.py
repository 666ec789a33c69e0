"""Raw connections that speak HTTP/2 badly, stop half-way or say nothing: others are served."""

import time

import pytest
from attacked_server import END_S, started_server
from random_calls import every_method
from random_frames import (
    DATA,
    HEADERS,
    attack_frames,
    call_headers,
    frame,
    opened,
)
from serving import png

from secondlook_client import Client

SHARE = 0.1
"""Of all inputs."""
LABEL = "/secondlook.v1.LabelingService/Label"
UNFINISHED, ANNOUNCED = 24, 60 * 2**20


@pytest.mark.timeout(3600)
def test_random_frames(tmp_path, inputs):
    paths = tuple(f"/{m.containing_service.full_name}/{m.name}" for m in every_method())
    paths += ("/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check", "/x", "")
    flags = ("--models", "demo", "--max-trainings", "0", "--grace-s", "2")
    with started_server(tmp_path, *flags) as server:
        sent = attack_frames(server.address, int(inputs * SHARE), 1, paths)
        with Client(server.address) as client:
            assert client.label(png(), classes=["ball"]).width == 40
        assert server.process.poll() is None
        assert not server.refused
        assert server.worst_wait_s <= 2.0
        assert "Traceback" not in server.log_text()
        assert server.terminate(20) <= 2 + END_S
    print(f"{sent:,} frames, health at most {server.worst_wait_s:.2f} s")


def test_many_calls_that_never_come_to_an_end(tmp_path):
    flags = ("--models", "demo", "--max-trainings", "0", "--grace-s", "2")
    with started_server(tmp_path, *flags) as server:
        silent = [opened(server.address) for _ in range(100)]
        header_only = [opened(server.address) for _ in range(300)]
        for connection in header_only:
            connection.sendall(frame(HEADERS, 4, 1, call_headers(LABEL)))
        unfinished = [opened(server.address) for _ in range(UNFINISHED)]
        for connection in unfinished:
            connection.sendall(frame(HEADERS, 4, 1, call_headers(LABEL)))
            announced = b"\0" + ANNOUNCED.to_bytes(4, "big") + b"\0" * 1000
            connection.sendall(frame(DATA, 0, 1, announced))
        server.forget()
        began = time.monotonic()
        with Client(server.address) as client:
            assert client.label(png(), classes=["ball"]).width == 40
        assert time.monotonic() - began < 10
        time.sleep(1)
        assert not server.refused
        assert server.worst_wait_s <= 2.0
        assert server.terminate(20) <= 2 + END_S
        for connection in (*silent, *header_only, *unfinished):
            connection.close()
