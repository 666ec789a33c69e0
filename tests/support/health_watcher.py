"""Asks a server's health and looks at its memory from a process of its own; a JSON line each time.

    python health_watcher.py HOST:PORT PID [CA]

In the process that attacks, one that is busy making messages would seem to be a server that waits.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

POLL_S = 0.1
TIMEOUT_S = 60.0
"""A wait is measured, not cut short."""


def memory_mb(pid: int) -> float:
    """Resident memory now, of the process and its children together."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total / 2**20


def main(address: str, pid: int, ca: str = "") -> None:
    """Until the process that started this one ends it; over TLS with the file of an authority."""
    trusted = grpc.ssl_channel_credentials(Path(ca).read_bytes()) if ca else None
    opened = grpc.secure_channel(address, trusted) if trusted else grpc.insecure_channel(address)
    with opened as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)  # connects: not counted
        while True:
            began, status = time.monotonic(), "OK"
            try:
                health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            except grpc.RpcError as failure:
                status = failure.code().name
            wait_s = time.monotonic() - began
            print(json.dumps([wait_s, memory_mb(pid), status]), flush=True)
            time.sleep(POLL_S)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
