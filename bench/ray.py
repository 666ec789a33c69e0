"""What Ray costs over plain processes that do the same, what kills cost, and 10⁹ images.

Cost: two processes with the embedded models each, fed in batches by one driver, which also reads
what comes back; on Ray with one more that decodes, plain (`multiprocessing`) with the decoding in
the same two. SECONDLOOK_RAY_IMAGES (default 32) scenes a side, SECONDLOOK_RAY_ROUNDS (default 5)
pairs in turn, started before. Kills: `secondlook label --ray` on a cluster of its own with scripted
models of 0.03 s an image, of which a worker, the driver or the whole head is killed at random
moments; SECONDLOOK_RAY_KILLS (default 6; the bar is 100). The calculation takes the driver's own
time for an image from a run of SECONDLOOK_RAY_DRIVEN (default 1500) images with models that cost
nothing; prices are assumptions.
"""

import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from killed_cluster import OwnCluster, killed_runs
from label_command import folder_of, label

from bench import fixtures
from bench.paired_timing import Figure, against, none_of, paired
from secondlook.config.settings import Settings
from secondlook.core.image_folder import ImageSelection, select_images
from secondlook.jobs.in_flight import JobAttempts
from secondlook.jobs.ray_actors import DecodingActor, ModelActor
from secondlook.jobs.ray_cluster import ClusterPlan
from secondlook.jobs.ray_labeling import READY_AHEAD, RayModels
from secondlook.store.blobs import FolderBlobs
from secondlook.store.queue import Item

IMAGES = int(os.environ.get("SECONDLOOK_RAY_IMAGES", "32"))
ROUNDS = int(os.environ.get("SECONDLOOK_RAY_ROUNDS", "5"))
KILLS = int(os.environ.get("SECONDLOOK_RAY_KILLS", "6"))
DRIVEN = int(os.environ.get("SECONDLOOK_RAY_DRIVEN", "1500"))
PROCESSES = 2
AHEAD = 2
"""Batches that a plain process has: it labels one and decodes the next."""
AT_LEAST = 0.95
KILLED_IMAGES, PAUSE_S = 400, 0.03
BATCH = Settings().batching.propose_batch
WRITTEN_TOGETHER = 64
"""Outcomes of a transaction at most."""

BILLION = 10**9
H200_IMAGES_S = 12.0
"""Assumption: images a second of Grounding DINO and a 2B verifier on one H200; see `make bench`."""
CPU_S_PER_IMAGE = 10.0
"""Assumption: core-seconds of the same on CPUs: 3 s on two cores for the proposer, and crops."""
H200_DOLLARS, CORE_DOLLARS = 3.5, 0.04
"""Assumptions: dollars an hour of an H200 and of a CPU core."""
IMAGE_BYTES, PUT_DOLLARS, GET_DOLLARS, GB_MONTH_DOLLARS = 250_000, 5e-6, 4e-7, 0.023
"""Assumptions: bytes of an image, and list prices of S3 for a request and a stored gigabyte."""


def run() -> list[Figure | str]:
    """Cost over plain processes, kills, and the calculation."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        place = Path(folder)
        return [_cost(place), *_killed(place / "killed"), _billion(place)]


def _cost(folder: Path) -> Figure:
    settings = Settings().replace(threads=1, verdict_cache_size=0)
    images = folder / "images"
    images.mkdir()
    for number, content in enumerate(fixtures.jpegs(IMAGES)):
        (images / f"{number:04}.jpg").write_bytes(content)
    selection = select_images([images])
    blobs = FolderBlobs(folder / "blobs")
    with ExitStack() as stack:
        plain = stack.enter_context(_plain(settings, blobs, selection))
        on_ray = stack.enter_context(_on_ray(folder, settings, blobs, selection))
        return paired(
            f"Ray over {PROCESSES} plain processes, {IMAGES} scenes, embedded models",
            lambda: _labelled(on_ray, selection),
            lambda: _labelled(plain, selection),
            at_least=AT_LEAST,
            unit="images/s",
            rounds=ROUNDS,
        )


def _labelled(attempts: JobAttempts, selection: ImageSelection) -> int:
    """Make an attempt at each image; how many."""
    found = [
        Item(number, 1, one.key, one.name, one.size, one.mtime_ns, None, 0)
        for number, one in enumerate(selection.walk())
    ]
    waiting, done = list(reversed(found)), 0
    while done < len(found):
        while waiting and len(attempts.item_ids) < (attempts.limit or 1):
            attempts.begin(waiting.pop())
        if ended := attempts.next(1.0):
            assert not isinstance(ended.outcome, BaseException), ended.outcome
            done += 1
        attempts.written()
    return done


@contextmanager
def _on_ray(
    folder: Path, settings: Settings, blobs: FolderBlobs, selection: ImageSelection
) -> Iterator[JobAttempts]:
    cluster = OwnCluster(folder)
    cluster.start()
    try:
        plan = ClusterPlan(cluster.address, actors=PROCESSES, gpus=0.0, cpus=0.9)
        models = RayModels(plan, settings, selection, print)
        try:
            yield models.attempts(blobs, fixtures.ontology(), "bench")
        finally:
            models.close()
    finally:
        cluster.kill()


class PlainAttempts(JobAttempts):
    """Attempts in plain processes: each reads, decodes and labels what it gets through a pipe."""

    def __init__(self, pipes: list[Connection]) -> None:
        super().__init__()
        self._pipes = pipes
        self._begun: list[tuple[Item, float]] = []
        self._batches: queue.Queue[list[tuple[Item, float]] | None] = queue.Queue()
        for pipe in pipes:
            threading.Thread(target=self._feed, args=(pipe,), daemon=True).start()

    @property
    def limit(self) -> int:
        """As on Ray."""
        return READY_AHEAD * BATCH * PROCESSES

    def next(self, timeout_s: float) -> Any:
        """See ``JobAttempts``; what was begun is sent first."""
        for start in range(0, len(self._begun), BATCH):
            self._batches.put(self._begun[start : start + BATCH])
        self._begun = []
        return super().next(timeout_s)

    def close(self) -> None:
        """See ``JobAttempts``."""
        for _ in self._pipes:
            self._batches.put(None)

    def _start(self, item: Item, began: float) -> None:
        self._begun.append((item, began))

    def _feed(self, pipe: Connection) -> None:
        """Keep one process at work: it has up to ``AHEAD`` batches."""
        sent: deque[list[tuple[Item, float]]] = deque()
        while True:
            while len(sent) < AHEAD and not (sent and self._batches.empty()):
                batch = self._batches.get()
                if batch is None:
                    pipe.send(None)
                    return
                pipe.send([item for item, _ in batch])
                sent.append(batch)
            outcomes = pipe.recv()
            for (item, began), outcome in zip(sent.popleft(), outcomes, strict=True):
                self._end(item, began, outcome)


def _serve(
    pipe: Connection, settings: Settings, blobs: FolderBlobs, selection: ImageSelection
) -> None:
    """A plain process: a thread decodes the next batch while the models work on one."""
    decoding, models = DecodingActor(settings.images, blobs, selection), ModelActor(settings)
    models.ready()
    pipe.send(None)
    ontology = fixtures.ontology()
    decoded: queue.Queue[Any] = queue.Queue(1)

    def decode() -> None:
        for items in iter(pipe.recv, None):
            decoded.put(decoding.prepare(items, ontology, "bench"))
        decoded.put(None)

    threading.Thread(target=decode, daemon=True).start()
    for prepared in iter(decoded.get, None):
        pipe.send(models.label(prepared, None))


@contextmanager
def _plain(
    settings: Settings, blobs: FolderBlobs, selection: ImageSelection
) -> Iterator[JobAttempts]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, settings, blobs, selection))
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    attempts = PlainAttempts(pipes)
    try:
        yield attempts
    finally:
        attempts.close()
        for process in processes:
            process.join()


def _killed(folder: Path) -> list[Figure | str]:
    folder.mkdir()
    found = killed_runs(folder, KILLS, KILLED_IMAGES, PAUSE_S)
    counts = {victim: len(again) for victim, again in found.again.items()}
    most = {victim: max(again, default=0) for victim, again in found.again.items()}
    all_actors = BATCH * PROCESSES
    return [
        none_of(f"images without a result after {KILLS} kills", found.lost),
        none_of("images with two results", found.doubled),
        against(
            f"images redone after a kill of a worker, at most ({counts['worker']} kills)",
            most["worker"],
            BATCH,
            "images",
        ),
        against(
            f"the same of the driver or the head ({counts['driver']} and {counts['head']})",
            max(most["driver"], most["head"]),
            all_actors,
            "images",
        ),
        f"An actor has a batch of {BATCH} at a time, which goes with it, and gets the next once "
        f"that is stored. With the driver or the head go all {PROCESSES} actors. Images redone, "
        f"kill by kill: {found.again}. {found.images:,} images in all.",
    ]


def _billion(folder: Path) -> str:
    """What 10⁹ images take, from the driver's own time for one."""
    cluster = OwnCluster(folder)
    cluster.start()
    try:
        counts = (10, DRIVEN // 10, DRIVEN)  # the first imports what all need
        _, few, many = (_driven(folder, cluster, count) for count in counts)
    finally:
        cluster.kill()
    seconds, cpu_s, size = (more - less for more, less in zip(many, few, strict=True))
    images = DRIVEN - DRIVEN // 10  # what starting costs is in both
    return _calculation(images / seconds, cpu_s / images, size / images)


def _driven(folder: Path, cluster: OwnCluster, count: int) -> tuple[float, float, int]:
    """Seconds of a run, of those the driver's CPU, and the bytes of its database."""
    images, out = folder_of(folder / f"images{count}", count), folder / f"out{count}"
    more = ("--ray", cluster.address, "--ray-actors", "1", "--gallery", "0")
    began, cpu = time.perf_counter(), time.process_time()
    ended = label(images, out, *more)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    assert ended.returncode == 0, ended.stderr
    return seconds, cpu_s, (out / ".store" / "store.db").stat().st_size


def _calculation(images_s: float, driver_s: float, row_bytes: float) -> str:
    per_driver = 1 / driver_s
    gpus_per_driver = per_driver / H200_IMAGES_S
    gpu_hours = BILLION / H200_IMAGES_S / 3600
    core_hours = BILLION * CPU_S_PER_IMAGE / 3600
    storage = BILLION * IMAGE_BYTES / 1e9 * GB_MONTH_DOLLARS
    requests = BILLION * (GET_DOLLARS + PUT_DOLLARS)
    return (
        f"10⁹ images, from what was measured here: the driver (listing, queue, one transaction for "
        f"up to {WRITTEN_TOGETHER} results, reading them for COCO) takes {driver_s * 1000:.2f} ms "
        f"of one core an image ({images_s:.0f} images/s end to end on these two cores, which also "
        f"decoded and kept the images), so one driver feeds up to {per_driver:.0f} images/s, "
        f"{gpus_per_driver:.0f} H200s at an assumed {H200_IMAGES_S:g} images/s each; 10⁹ images "
        f"take it {BILLION * driver_s / 86400:.0f} days, and its database "
        f"{BILLION * row_bytes / 1e12:.1f} TB at {row_bytes:.0f} bytes an image. So the driver is "
        "the first bottleneck, then its database; both divide: a run for each part of the bucket, "
        "on one PostgreSQL or several. Ten drivers with "
        f"{10 * gpus_per_driver:.0f} H200s would need {BILLION * driver_s / 864_000:.1f} days. "
        f"Models: {gpu_hours:,.0f} H200-hours, ${gpu_hours * H200_DOLLARS:,.0f} at "
        f"${H200_DOLLARS}/h; on CPUs {core_hours:,.0f} core-hours at an assumed "
        f"{CPU_S_PER_IMAGE:g} core-seconds an image, ${core_hours * CORE_DOLLARS:,.0f} at "
        f"${CORE_DOLLARS}/h. S3: ${requests:,.0f} of requests to read each image and to keep it, "
        f"and ${storage:,.0f} a month for the kept copies of {IMAGE_BYTES / 1000:g} kB."
    )
