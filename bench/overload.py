"""Overload: what accepted calls wait for when ten times as many clients call as the models need.

One process serves, another one calls. Full load is as many clients as keep the batches full, each
with one call at a time; under overload ten times as many do the same, and come back when the server
told them to. Both are measured in turn, with scripted models of 50 ms a batch and with the embedded
ones.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench import fixtures
from bench.paired_timing import Figure
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.app import running_server
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer

CLIENTS, TIMES = 16, 10
ROUNDS, ROUND_S, WARM_UP_S = 5, 6.0, 2.0
CHANNELS = 8
MAX_RATIO, MIN_THROUGHPUT = 1.5, 0.97


def overload(rounds: int = ROUNDS, round_s: float = ROUND_S) -> list[Figure | str]:
    """p95 of accepted calls and throughput, overload ÷ full load, for both kinds of models."""
    dogs = Ontology((ClassSpec("dog"),))
    scripted = _measured("scripted models", timed_models(), dogs, rounds, round_s)
    return scripted + _measured(
        "embedded models", fixtures.pipeline(), fixtures.ontology(), rounds, round_s
    )


def timed_models() -> Pipeline:
    """Two stages of 50 ms a batch, whatever its size."""
    return Pipeline(_TimedProposer(), _TimedVerifier())


class _TimedProposer:
    """One box an image; a batch of any size takes 50 ms."""

    name, digest = "timed", "1"

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """Waits, then answers."""
        time.sleep(0.05)
        scores = np.full((1, len(phrases)), 0.9, np.float32)
        return [
            Proposals(np.array([[0, 0, image.width, image.height]], np.float32), scores)
            for image in images
        ]


class _TimedVerifier:
    """Yes to everything; a batch of any size takes 50 ms."""

    name, digest, min_side = "timed", "1", 8

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Waits, then answers."""
        time.sleep(0.05)
        return [tuple(Answer(0.9, "yes") for _ in query.questions) for query in queries]


@dataclass(frozen=True)
class CallerRound:
    """What the callers of one round saw."""

    p95_s: float
    per_second: float
    refused: int
    hint_s: float
    """Median of the retry hints."""
    unhinted: int
    """Refusals without one."""
    served: list[int]
    """Accepted calls, by token."""


def _measured(
    name: str, pipeline: Pipeline, ontology: Ontology, rounds: int, round_s: float
) -> list[Figure | str]:
    engine = Engine(pipeline)
    with running_server(engine, ontology) as server, calling(server.address) as measure:
        pairs = [
            (measure(CLIENTS, round_s), measure(CLIENTS * TIMES, round_s)) for _ in range(rounds)
        ]
    engine.close()
    hints = statistics.median(over.hint_s for _, over in pairs)
    refused = statistics.median(over.refused for _, over in pairs)
    return [
        _figure(
            f"p95 of accepted calls, {TIMES}× overload ÷ full load, {name}",
            [(full.p95_s * 1000, over.p95_s * 1000) for full, over in pairs],
            at_most=MAX_RATIO,
            unit="ms",
        ),
        _figure(
            f"throughput, {TIMES}× overload ÷ full load, {name}",
            [(full.per_second, over.per_second) for full, over in pairs],
            at_least=MIN_THROUGHPUT,
            unit="images/s",
        ),
        f"{name}: {refused:.0f} calls refused in {round_s:g} s of overload; "
        f"retry hint {hints:.2f} s (median).",
    ]


def _figure(
    name: str,
    pairs: Sequence[tuple[float, float]],
    *,
    unit: str,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    ratios = sorted(over / full for full, over in pairs)
    ratio = statistics.median(ratios)
    bar = f"≤ {at_most:g}" if at_most is not None else f"≥ {at_least:g}"
    return Figure(
        name=name,
        bar=bar,
        ours=statistics.median(over for _, over in pairs),
        baseline=statistics.median(full for full, _ in pairs),
        unit=unit,
        ratio=ratio,
        low=ratios[0],
        high=ratios[-1],
        rounds=len(pairs),
        met=ratio <= at_most if at_most is not None else ratio >= (at_least or 0),
    )


@contextmanager
def calling(address: str, ca: str = "", tokens: Sequence[str] = ()) -> Iterator["_Measure"]:
    """The calling process; what it yields runs one round.

    With a ``ca`` file it calls over TLS; the callers have the ``tokens`` in turn.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.overload", address, ca, *tokens],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _Measure(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(60)


class _Measure:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, clients: int, seconds: float) -> CallerRound:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{clients} {seconds}\n")
        self._process.stdin.flush()
        return CallerRound(**json.loads(self._process.stdout.readline()))


async def _serve_rounds(address: str, ca: str = "", *tokens: str) -> None:
    """The other process: a line ``CLIENTS SECONDS`` in, a line with a ``CallerRound`` out."""
    images = fixtures.jpegs(8)
    async with _Channels(address, ca) as channels:
        while line := await asyncio.to_thread(sys.stdin.readline):
            clients, seconds = line.split()
            found = await _round(channels, images, int(clients), float(seconds), tokens)
            print(json.dumps(found), flush=True)


class _Channels:
    """A few connections, as of a few machines with many threads each."""

    def __init__(self, address: str, ca: str) -> None:
        # Channels with the same options would share one connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        tls = grpc.ssl_channel_credentials(Path(ca).read_bytes()) if ca else None
        self._channels = [
            grpc.aio.secure_channel(address, tls, options)
            if tls
            else grpc.aio.insecure_channel(address, options)
            for _ in range(CHANNELS)
        ]

    async def __aenter__(self) -> list[grpc.aio.Channel]:
        return self._channels

    async def __aexit__(self, *failure: object) -> None:
        for channel in self._channels:
            await channel.close()


async def _round(
    channels: list[grpc.aio.Channel],
    images: list[bytes],
    clients: int,
    seconds: float,
    tokens: Sequence[str],
) -> dict[str, Any]:
    from secondlook_client.v1 import labeling_pb2 as pb
    from secondlook_client.v1 import labeling_pb2_grpc

    started = time.perf_counter()
    begins, ends = started + WARM_UP_S, started + WARM_UP_S + seconds
    latencies: list[float] = []
    hints: list[float] = []
    refused = unhinted = 0
    served = [0] * max(len(tokens), 1)

    async def client(number: int) -> None:
        nonlocal refused, unhinted
        mine = number % len(served)
        metadata = [("authorization", f"Bearer {tokens[mine]}")] if tokens else []
        stub = labeling_pb2_grpc.LabelingServiceStub(channels[number % len(channels)])
        request = pb.LabelRequest(image=images[number % len(images)])
        await asyncio.sleep(random.random() * 0.2)
        while time.perf_counter() < ends:
            sent = time.perf_counter()
            try:
                await stub.Label(request, timeout=60, metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                trailing = dict(failure.trailing_metadata() or ())
                if failure.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                hint_s = int(trailing.get("secondlook-retry-after-ms", 0)) / 1000
                unhinted += not hint_s
                refused += 1
                hints.append(hint_s)
                await asyncio.sleep(min(hint_s, max(ends - time.perf_counter(), 0.0)))
            else:
                now = time.perf_counter()
                if begins <= now <= ends:
                    latencies.append(now - sent)
                    served[mine] += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return {
        "p95_s": statistics.quantiles(latencies, n=20)[-1],
        "per_second": len(latencies) / seconds,
        "refused": refused,
        "hint_s": statistics.median(hints) if hints else 0.0,
        "unhinted": unhinted,
        "served": served,
    }


if __name__ == "__main__":
    asyncio.run(_serve_rounds(*sys.argv[1:]))
