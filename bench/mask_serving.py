"""Clicks of eight people at once on one server: how long each waits for its mask.

Server and embedded segmenter run here, the people in another process. Each opens a photo-sized
scene and clicks at its objects, with a pause between clicks (people take a second) and without.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from bench import fixtures
from bench.mask_sessions import chosen_segmenter
from bench.paired_timing import Figure, latency
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.app import running_server

PEOPLE, CLICKS = 8, 30
SIZE = 640
"""Longest side of the images, pixels."""
PAUSE_S = 0.5
BAR_MS = 120.0
"""What still feels immediate (Miller 1968, Nielsen 1993)."""


def run() -> list[Figure | str]:
    """The latencies with and without pauses, and those of opening an image."""
    two = fixtures.pipeline()
    engine = Engine(Pipeline(two.proposer, two.verifier, two.settings, chosen_segmenter("demo")))
    with running_server(engine) as server:
        paused, opened = _people(server.address, PAUSE_S)
        hurried, _ = _people(server.address, 0.0)
    engine.close()
    return [
        latency(f"clicks of {PEOPLE} people with pauses of {PAUSE_S:g} s", paused, BAR_MS),
        f"Without pauses: median {np.median(hurried):.0f} ms, p95 "
        f"{np.quantile(hurried, 0.95):.0f} ms. Opening an image, {PEOPLE} at once: median "
        f"{np.median(opened):.0f} ms, longest {max(opened):.0f} ms.",
    ]


def _people(address: str, pause_s: float) -> tuple[list[float], list[float]]:
    """Milliseconds of the clicks, and of opening the images."""
    command = [sys.executable, "-m", "bench.mask_serving", address, str(pause_s)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    clicks, opened = ([float(value) for value in line.split()] for line in done.stdout.splitlines())
    return clicks, opened


async def _click(address: str, pause_s: float) -> None:
    """The other process: a line of latencies of clicks, and one of openings."""
    from secondlook_client import AsyncClient

    encoded = fixtures.jpegs(PEOPLE, SIZE)

    async def one(number: int) -> tuple[list[float], float]:
        rng = np.random.default_rng(number)
        async with AsyncClient(address) as client:
            started = time.perf_counter()
            session = await client.segmentation.open(encoded[number])
            opened = time.perf_counter() - started
            await asyncio.sleep(rng.uniform(0, pause_s))
            times = []
            for count in range(CLICKS):
                if count % 3 == 0:
                    session.reset()
                x, y = rng.uniform(0, (session.image.width, session.image.height))
                started = time.perf_counter()
                await session.click(x, y)
                times.append(time.perf_counter() - started)
                await asyncio.sleep(pause_s)
            return times, opened

    found = await asyncio.gather(*(one(number) for number in range(PEOPLE)))
    _line([value for times, _ in found for value in times])
    _line([opened for _, opened in found])


def _line(seconds: Sequence[float]) -> None:
    print(*(f"{1000 * value:.2f}" for value in seconds))


if __name__ == "__main__":
    asyncio.run(_click(sys.argv[1], float(sys.argv[2])))
