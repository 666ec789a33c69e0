"""What clients do all day, and the books about it: every acknowledgement is written down.

Labellers keep single images, cameras stream into spools, a reader follows a folder's job, and a
reviewer answers a queue, each with the client as it is by default. In the end ``account`` compares
what was acknowledged with what the store has.
"""

import hashlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from job_images import encoded
from sqlalchemy import select

from secondlook.store import Store
from secondlook.store.integrity import check
from secondlook.store.queue import ItemState, JobRow
from secondlook.store.schema import decisions, images, items, runs
from secondlook_client import Client, SecondlookError, SpoolLimits
from secondlook_client.channel import AccessOptions
from secondlook_client.errors import SpoolUnusable
from secondlook_client.values import JobState, LabelResult, ReviewAnswer

KEPT, FOLDER, ASKED = "kept", "folder", "asked"
"""Runs: of the labellers, of the folder, and of the boxes that the reviewer is asked about."""
FRAMES, SINGLE = 10_000_000, 20_000_000
"""From these numbers on images are frames of cameras, and images of labellers."""
OF_ONE = 1_000_000
"""Numbers of one camera or labeller."""


@dataclass
class Account:
    """What the store has of what was acknowledged."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    """Of ``secondlook check``."""
    failed: int = 0
    """Images that were given up."""

    @property
    def faults(self) -> int:
        """What is lost, doubled, damaged or given up."""
        return self.lost.total() + self.twice.total() + len(self.damage) + self.failed

    def sentence(self) -> str:
        """For a report."""
        parts = ", ".join(f"{number:,} {kind}" for kind, number in self.acknowledged.items())
        lost = ", ".join(f"{number:,} {kind}" for kind, number in self.lost.items() if number)
        return (
            f"acknowledged: {parts}; lost: {lost or '0'}; twice: {self.twice.total()}; given up: "
            f"{self.failed}; `secondlook check` names {len(self.damage)} faults"
        )


class Workday:
    """Clients of one address, from ``working`` to its end."""

    def __init__(
        self,
        folder: Path,
        address: str,
        *,
        labellers: int = 2,
        cameras: int = 2,
        job_images: int = 400,
        pause_s: float = 0.2,
        ca: str = "",
    ) -> None:
        """``pause_s`` lies between two images of one labeller or camera, and two answers.

        With ``ca``, a file of certificates, clients ask for TLS.
        """
        self.folder, self.address = folder, address
        self.spools = folder
        """Folder of the cameras' spools."""
        self.cameras, self.labellers, self.job_images = cameras, labellers, job_images
        self._pause_s = pause_s
        self._access: AccessOptions = {"ca": ca} if ca else {}
        self.waits: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """(end, seconds) of each call, by kind; ``time.monotonic``."""
        self.errors: list[str] = []
        """What a caller saw after all tries of the client."""
        self._kept: list[int] = []
        self._answers: dict[int, str] = {}
        self._sent: dict[str, dict[int, int]] = defaultdict(dict)
        self._cursors: list[int] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def make_folder(self) -> Path:
        """The images of the job."""
        root = self.folder / "images"
        for number in range(self.job_images):
            path = root / f"{number // 100:03d}" / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number))
        return root

    def ask(self, boxes: int) -> None:
        """Label ``boxes`` images that the reviewer will be asked about, and make the queue."""
        with self._client() as client:
            numbered = ((number, encoded(SINGLE * 2 + number)) for number in range(boxes))
            for _, result in client.label_many(numbered, concurrency=16, keep=ASKED):
                assert isinstance(result, LabelResult), result
            client.jobs.finish(ASKED)
            client.reviews.create_queue(ASKED, ASKED)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Everybody works until the block ends, and then ends what was begun."""
        loops = [
            *((self._label, number) for number in range(self.labellers)),
            *((self._film, number) for number in range(self.cameras)),
            (self._follow, 0),
            (self._review, 0),
        ]
        threads = [
            threading.Thread(target=loop, args=(number,), name=loop.__name__, daemon=True)
            for loop, number in loops
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(180)
                if thread.is_alive():
                    self.errors.append(f"{thread.name} does not end")

    def _client(self) -> Client:
        return Client(self.address, **self._access)

    def _timed(self, kind: str, call: Callable[[], object]) -> bool:
        """Whether the call succeeded."""
        began = time.monotonic()
        try:
            call()
        except SecondlookError as failure:
            self._fail(kind, failure)
            return False
        finally:
            ended = time.monotonic()
            with self._lock:
                self.waits[kind].append((ended, ended - began))
        return True

    def _fail(self, kind: str, failure: SecondlookError) -> None:
        with self._lock:
            self.errors.append(f"{kind}: {failure}")

    def _label(self, labeller: int) -> None:
        numbers = count(SINGLE + labeller * OF_ONE)
        with self._client() as client:
            for number in numbers:
                image = encoded(number)
                while not self._timed("labels", lambda: client.label(image, keep=KEPT)):  # noqa: B023
                    if self._over.wait(0.2):
                        return
                self._kept.append(number)
                if self._over.wait(self._pause_s):
                    return

    def _film(self, camera: int) -> None:
        stream = f"gate-{camera}"
        limits = SpoolLimits(sync=False)  # no power is cut here
        with (
            self._client() as client,
            client.capture(stream, spool=self.spools / stream, limits=limits) as capture,
        ):
            for number in count(FRAMES + camera * OF_ONE):
                try:
                    sequence = capture.send(encoded(number))
                except SpoolUnusable as failure:  # not acknowledged, so a camera may send it again
                    self._fail("frames", failure)
                else:
                    assert sequence is not None, "the spool dropped a frame"
                    self._sent[stream][sequence] = number
                if self._over.wait(self._pause_s):
                    break
            self._timed("flushes", lambda: capture.flush(120))

    def _follow(self, _: int) -> None:
        root = self.make_folder()
        with self._client() as client:
            self._timed(
                "jobs made", lambda: client.jobs.create(FOLDER, folder=str(root), reuse=True)
            )
            while not self._timed("reads of results", lambda: self._read_on(client)):
                time.sleep(0.2)

    def _read_on(self, client: Client) -> None:
        after = self._cursors[-1] if self._cursors else 0
        for result in client.jobs.results(FOLDER, after=after, follow=True):
            self._cursors.append(result.cursor)

    def _review(self, _: int) -> None:
        with self._client() as client:
            while not self._over.wait(self._pause_s):
                self._timed("answers", lambda: self._answer_next(client))

    def _answer_next(self, client: Client) -> None:
        for item in client.reviews.next(ASKED, person="Ann"):
            answer = (ReviewAnswer.RIGHT, ReviewAnswer.WRONG)[item.id % 2]
            client.reviews.answer(item, answer, person="Ann")
            self._answers[item.id] = answer

    def longest_wait_s(self, kind: str) -> float:
        """Of one call, tries included."""
        return max((seconds for _, seconds in self.waits[kind]), default=0.0)

    def told(self) -> str:
        """The errors that callers saw, each kind with how often."""
        kinds = Counter(self.errors)
        return "; ".join(f"{number} × {what}" for what, number in kinds.most_common(5)) or "none"

    def account(self, store: Store, timeout_s: float = 120.0) -> Account:
        """Compare the books with the store, once ``working`` has ended and jobs are done."""
        self._wait_until_done(store, timeout_s)
        account = Account()
        found = _items(store)
        kept = {sha256 for _, sha256 in found[KEPT].values()}
        self._tell(account, "labels", [_sha256(number) not in kept for number in self._kept])
        for stream, sent in self._sent.items():
            waiting = {int(path.stem) for path in (self.spools / stream).glob("*.frame")}
            numbers = sent.keys() - waiting
            stored = dict(found[stream].values())
            gone = [stored.get(number) != _sha256(sent[number]) for number in sorted(numbers)]
            self._tell(account, "frames", gone)
        results = set(_decisions(store, FOLDER))
        self._tell(account, "results of the job", [c not in results for c in self._cursors])
        account.twice["results read"] = len(self._cursors) - len(set(self._cursors))
        self._count_answers(store, account)
        for run, of_run in found.items():
            account.twice[run] += len(of_run) - len({sha256 for _, sha256 in of_run.values()})
            account.twice[run] += len(_decisions(store, run)) - len(of_run)
        jobs = store.queue.list_jobs(limit=1_000_000)
        account.failed = sum(job.failed for job in jobs)
        account.damage = [str(one) for one in check(store)]
        return account

    def _tell(self, account: Account, kind: str, gone: list[bool]) -> None:
        account.acknowledged[kind] += len(gone)
        account.lost[kind] += sum(gone)

    def _count_answers(self, store: Store, account: Account) -> None:
        answered = {i.id: a.answer for i, a in store.reviews.items(ASKED, limit=1_000_000) if a}
        given = [answered.get(item) != answer for item, answer in self._answers.items()]
        self._tell(account, "answers", given)
        account.twice["answers"] = len(store.reviews.history(limit=1_000_000)) - len(answered)

    def _wait_until_done(self, store: Store, timeout_s: float) -> None:
        """Until the folder is labelled, and all frames and kept images are."""
        ends = time.monotonic() + timeout_s
        while busy := [job.name for job in store.queue.list_jobs(limit=1_000_000) if _is_busy(job)]:
            assert time.monotonic() < ends, f"not done: {busy}; {self.errors[-3:]}"
            time.sleep(0.2)


def _is_busy(job: JobRow) -> bool:
    return bool(job.waiting) or (job.name == FOLDER and job.state is not JobState.DONE)


def _sha256(number: int) -> str:
    return hashlib.sha256(encoded(number)).hexdigest()


def _items(store: Store) -> dict[str, dict[int, tuple[int, str]]]:
    """(key, sha256) of the labelled items of each run, by their id."""
    query = (
        select(runs.c.name, items.c.id, items.c.key, images.c.sha256)
        .join(runs, runs.c.id == items.c.run_id)
        .join(images, images.c.id == items.c.image_id)
        .where(items.c.state == ItemState.DONE)
    )
    found: dict[str, dict[int, tuple[int, str]]] = defaultdict(dict)
    with store.database.reading() as connection:
        for name, item, key, sha256 in connection.execute(query):
            found[name][item] = key, sha256.hex()
    return found


def _decisions(store: Store, run: str) -> list[int]:
    """Ids of the results of a run; one an item, where nothing is doubled."""
    query = select(decisions.c.id).join(runs, runs.c.id == decisions.c.run_id)
    with store.database.reading() as connection:
        return [*connection.scalars(query.where(runs.c.name == run))]
