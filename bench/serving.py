"""The service: what gRPC costs compared with the engine in process, what shared batches gain, and
what the two stages cost together, compared with the slower one of them alone.

Clients run in a separate process, as real ones do. The server is ``secondlook.server`` with the
embedded models and without the verdict cache. The stages of the last figure are scripted models of
50 ms a batch, which share no processor, as two devices do not.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from bench import fixtures
from bench.overload import timed_models
from bench.paired_timing import Figure, paired
from secondlook.config.settings import BatchingSettings
from secondlook.core.images import decode
from secondlook.core.types import Image, Labelled
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.server.app import running_server
from secondlook_client.ontology import ClassSpec, Ontology

IMAGES, IN_FLIGHT = 96, 16
CLIENTS, EACH = 16, 6
LONG_EACH, LONG_ROUNDS = 24, 9
"""Where the difference sought is a few percent: a short round's beginning and end, whose batches
are not full, cost about as much."""


def run() -> list[Figure | str]:
    """Three ratios, and the latencies behind the second."""
    return [_served(), *_shared_batches(), _overlapped()]


def _served() -> Figure:
    ontology = fixtures.ontology()
    encoded = fixtures.jpegs(IN_FLIGHT * LONG_EACH)
    engine = Engine(fixtures.pipeline())

    def in_process() -> float:
        with ThreadPoolExecutor(2) as decoders:
            return _labelled(engine, ontology, decoders.map(decode, encoded))

    with running_server(engine, ontology) as server:
        client = ClientProcess(server.address, IN_FLIGHT, LONG_EACH)
        figure = paired(
            "served over gRPC ÷ the pipeline in process",
            client.images,
            in_process,
            at_least=0.95,
            unit="images/s",
            rounds=LONG_ROUNDS,
        )
        client.close()
    engine.close()
    return figure


def _shared_batches() -> list[Figure | str]:
    ontology = fixtures.ontology()
    models = fixtures.pipeline()
    together = Engine(models)
    alone = Engine(models, BatchingSettings(propose_batch=1, verify_batch=1, batching_window_ms=0))
    with running_server(together, ontology) as batched, running_server(alone, ontology) as single:
        sides = [ClientProcess(s.address, CLIENTS, EACH) for s in (batched, single)]
        figure = paired(
            "16 clients with dynamic batching ÷ without",
            sides[0].images,
            sides[1].images,
            at_least=1.3,
            unit="images/s",
        )
        latencies = [statistics.quantiles(side.latencies_s, n=20)[-1] * 1000 for side in sides]
        for side in sides:
            side.close()
    together.close()
    alone.close()
    lower = "lower, as required" if latencies[0] < latencies[1] else "**not lower: missed**"
    return [
        figure,
        f"p95 latency: {latencies[0]:.0f} ms with, {latencies[1]:.0f} ms without; {lower}.",
    ]


def _overlapped() -> Figure:
    ontology = Ontology((ClassSpec("dog"),))
    pipeline = timed_models()
    engine = Engine(pipeline)
    images = [decode(encoded) for encoded in fixtures.jpegs(IMAGES)] * 4
    tasks = [Task(image, ontology) for image in images]
    batching = engine.batching

    def together() -> float:
        return _labelled(engine, ontology, images)

    def slower_stage() -> float:
        """Both take as long a batch, so it is the one with smaller batches."""
        size = min(batching.propose_batch, batching.verify_batch)
        for begin in range(0, len(tasks), size):
            pipeline.propose(tasks[begin : begin + size])
        return len(tasks)

    figure = paired(
        "both stages ÷ the slower one alone, 50 ms a batch each",
        together,
        slower_stage,
        at_least=0.9,
        unit="images/s",
    )
    engine.close()
    return figure


def _labelled(engine: Engine, ontology: Ontology, images: Iterable[Image]) -> float:
    """How many the engine labelled, with ``IN_FLIGHT`` at the same time."""
    pending: deque[Future[Labelled]] = deque()
    labelled = 0
    for image in images:
        if len(pending) == IN_FLIGHT:
            pending.popleft().result()
            labelled += 1
        pending.append(engine.submit(Task(image, ontology)))
    return labelled + len([future.result() for future in pending])


class ClientProcess:
    """``clients`` concurrent callers in one other process, each sending ``each`` images.

    ``access``: variables by which they show who they are (``secondlook_client.addresses``).
    """

    def __init__(
        self, address: str, clients: int, each: int, access: Mapping[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-m", "bench.serving", address, str(clients), str(each)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(access or {})},
        )
        self._count = clients * each
        self.latencies_s: list[float] = []
        self._line()

    def images(self) -> float:
        """One round; returns how many images were labelled."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.latencies_s += [float(latency) for latency in self._line().split()]
        return self._count

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


async def _call(address: str, clients: int, each: int) -> None:
    """The other process: prints ``ready``, then one line of latencies per round."""
    from secondlook_client import AsyncClient

    encoded = fixtures.jpegs(clients * each)

    async def one(number: int) -> list[float]:
        latencies = []
        async with AsyncClient(address) as client:
            for data in encoded[number * each : (number + 1) * each]:
                started = time.perf_counter()
                await client.label(data, detail="labels")
                latencies.append(time.perf_counter() - started)
        return latencies

    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        rounds = await asyncio.gather(*(one(number) for number in range(clients)))
        print(*(f"{latency:.4f}" for latencies in rounds for latency in latencies), flush=True)


if __name__ == "__main__":
    asyncio.run(_call(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
