"""People who click and save masks on a server that is killed again and again.

The server runs in a process of its own, over a store, and is started again on the same port at
once. Each person's client tries again by itself; a mask counts as saved once its review was
acknowledged. After all kills the store is searched for a mask that was saved and is gone, or is
there twice.
"""

import multiprocessing
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from secondlook.store import open_store
from secondlook.store.integrity import check
from secondlook_client import Client, RetryPolicy
from secondlook_client.masks import Mask

PEOPLE = ("Ann", "Ben")
START_S = 60.0
TIMEOUT_S = 600.0
"""Of one call: whoever is unlucky meets one dying server after the other."""
_spawning = multiprocessing.get_context("forkserver")  # imports once, so that a start is quick


@dataclass
class KilledClicks:
    """A store with images, whose server is killed while people outline objects on them."""

    data: Path
    images: list[str]
    """Their sha256; each is at least 60 pixels wide and 40 high."""
    longest_s: float = 0.3
    """A server lives so long at most once somebody clicked."""
    saved: dict[str, Mask] = field(default_factory=dict)
    """By note: what was acknowledged."""
    clicks: int = 0

    def run(self, kills: int, seed: int) -> int:
        """Kill ``kills`` times at random moments, then look; how many masks were saved."""
        _spawning.set_forkserver_preload([__name__, "secondlook.server.app", "fakes"])
        moments, stopping, port = random.Random(seed), threading.Event(), _free_port()
        server = _started(self.data, port)
        people = [
            threading.Thread(target=self._click, args=(person, port, stopping)) for person in PEOPLE
        ]
        for person in people:
            person.start()
        for _ in range(kills):
            before, ends = self.clicks, time.monotonic() + START_S
            while self.clicks == before and time.monotonic() < ends:
                time.sleep(0.005)
            time.sleep(moments.random() * self.longest_s)
            server.kill()
            server.join()
            server = _started(self.data, port)
        stopping.set()
        for person in people:
            person.join(START_S)
        server.kill()
        server.join()
        self.look()
        return len(self.saved)

    def look(self) -> None:
        """Fails where a mask is lost or doubled."""
        with open_store(self.data) as store:
            reviews = store.reviews.history(limit=1_000_000)
            assert [*map(str, check(store, content=False))] == []
        kept = Counter(one.note for one in reviews)
        assert set(kept.values()) <= {1}, "a mask is doubled"
        assert kept.keys() == self.saved.keys(), "a mask is lost"
        for one in reviews:
            assert one.mask == self.saved[one.note]

    def _click(self, person: str, port: int, stopping: threading.Event) -> None:
        """Outline and save one object after the other."""
        # Between two tries as short as a server lives.
        policy = RetryPolicy(first_s=0.02, longest_s=0.1, unavailable_s=TIMEOUT_S)
        draw = random.Random(person)
        with Client(f"127.0.0.1:{port}", retry=policy) as client:
            chosen = draw.choice(self.images)
            clicks = client.segmentation.open(sha256=chosen, timeout_s=TIMEOUT_S)
            for number in range(10_000):
                if stopping.is_set():
                    return
                clicks.reset()
                for _ in range(2):
                    x, y = draw.randrange(5, 55), draw.randrange(5, 35)
                    clicks.click(x, y, timeout_s=TIMEOUT_S)
                    self.clicks += 1
                note = f"{person} {number}"
                kept = clicks.save("dog", person=person, note=note, timeout_s=TIMEOUT_S)
                assert kept.mask and kept.mask == clicks.mask
                self.saved[kept.note] = kept.mask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _started(data: Path, port: int) -> BaseProcess:
    """A server that listens."""
    ready = _spawning.Event()
    server = _spawning.Process(target=_serve, args=(data, port, ready), daemon=True)
    server.start()
    assert ready.wait(START_S), "the server did not start"
    return server


def _serve(data: Path, port: int, ready: threading.Event) -> None:
    from fakes import ScriptedSegmenter, object_and_parts
    from serving import server_settings, serving

    with (
        open_store(data, serving=True) as store,
        serving(
            store=store,
            segmenter=ScriptedSegmenter(object_and_parts),
            options=server_settings(port=port),
        ),
    ):
        ready.set()
        threading.Event().wait()
