"""People whose program is killed again and again while they answer the items of a queue.

Each program does what the command does: it asks for the next item, answers it, and notes what was
acknowledged. One that starts again first repeats the answer that its predecessor was giving, as a
client does that does not know whether it arrived. After each kill the store is searched for an
answer that was acknowledged and is gone, or is there twice.
"""

import multiprocessing
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from secondlook.store import open_store
from secondlook.store.integrity import check
from secondlook_client.values import ReviewAnswer

PEOPLE = ("Ann", "Ben")
START_S = 60.0
_spawning = multiprocessing.get_context("forkserver")  # imports once, so that a start is quick


@dataclass(frozen=True)
class KilledReviewers:
    """A queue in the store of ``data`` (and ``database_url``), and who answers it."""

    data: Path
    database_url: str
    queue: str
    longest_s: float = 0.3
    """A program lives so long at most once it has begun."""

    def run(self, kills: int, seed: int) -> int:
        """Kill ``kills`` times at random moments, look each time; how many answers there are."""
        _spawning.set_forkserver_preload([__name__, "secondlook.store.reviews"])
        moments = random.Random(seed)
        for _ in range(kills):
            programs = [self._started(person) for person in PEOPLE]
            time.sleep(moments.random() * self.longest_s)
            for program in programs:
                program.kill()
                program.join()
            answered = self.look()
        return answered

    def look(self) -> int:
        """Fails where an answer is lost or doubled; how many there are."""
        with open_store(self.data, self.database_url) as store:
            reviews = store.reviews.history(limit=1_000_000)
            items = store.reviews.items(self.queue, limit=1_000_000)
            queue = store.reviews.queue(self.queue)
            found = check(store, content=False)  # the images of a bench have no bytes
            assert [str(one) for one in found if one.subject.startswith("review")] == []
        answers = {item.id: answer for item, answer in items if answer}
        assert queue.answered == len(answers) == len(reviews), "an answer is lost or doubled"
        assert {one.id for one in answers.values()} == {one.id for one in reviews}
        for person in PEOPLE:
            for number in _noted(self._notes(person), "answered"):
                assert answers[number].person == person, f"the answer of item {number} is lost"
        return len(answers)

    def _started(self, person: str) -> BaseProcess:
        """A program that has begun to answer."""
        notes = self._notes(person)
        begun = len(_noted(notes, "began"))
        program = _spawning.Process(
            target=_answer_all,
            args=(self.data, self.database_url, self.queue, person, notes),
            daemon=True,
        )
        program.start()
        ends = time.monotonic() + START_S
        while len(_noted(notes, "began")) == begun and time.monotonic() < ends:
            time.sleep(0.005)
        return program

    def _notes(self, person: str) -> Path:
        return self.data.with_name(f"{self.data.name}-{person}.notes")


def _noted(notes: Path, word: str) -> list[int]:
    lines = notes.read_text().split("\n")[:-1] if notes.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(f"{word} ")]


def _answer_all(data: Path, database_url: str, queue: str, person: str, notes: Path) -> None:
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(word: str, number: int) -> None:
        os.write(file, f"{word} {number}\n".encode())

    with open_store(data, database_url) as store:
        tried, answered = _noted(notes, "tried"), Counter(_noted(notes, "answered"))
        note("began", 0)
        for number in tried[-1:]:
            if not answered[number]:
                store.reviews.answer(number, person, _answer_to(number))
                note("answered", number)
        while items := store.reviews.next(queue, person):
            for item in items:
                note("tried", item.id)
                store.reviews.answer(item.id, person, _answer_to(item.id))
                note("answered", item.id)


def _answer_to(number: int) -> ReviewAnswer:
    return (ReviewAnswer.RIGHT, ReviewAnswer.WRONG)[number % 2]
