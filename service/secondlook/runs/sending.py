"""A selection of pictures on its way to an upload job: only what the job lacks is sent."""

import itertools
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from secondlook.errors import SecondlookError
from secondlook.runs.fetched import holds
from secondlook.runs.folder import Selection, Source, read
from secondlook.runs.names import to_text
from secondlook_client.errors import BadImage, ClientError, ImageTooLarge, MessageTooLarge
from secondlook_client.jobs import Jobs

OFFERED_AT_ONCE = 1000
IN_FLIGHT = 16
"""Pictures sent and not durable yet: the server makes durable together what waits together."""
NAME_ROOM = 4000
"""Characters of a name that are sent; the server takes few more."""
OF_ONE_PICTURE = (BadImage, ImageTooLarge, MessageTooLarge)
"""What is wrong with one picture; any other failure would be the same for all of them."""


@dataclass(frozen=True)
class Refused:
    """A picture that cannot be sent."""

    name: str
    reason: str
    """Stable word."""
    message: str


class Sending:
    """One walk to count, one to send. Names are kept by the job as ``runs.names`` writes them."""

    def __init__(self, jobs: Jobs, job: str, selection: Selection, max_bytes: int) -> None:
        """``max_bytes`` bounds one picture."""
        self._jobs = jobs
        self._job = job
        self._selection = selection
        self._max_bytes = max_bytes
        self._known = np.zeros(0, dtype=np.int64)
        self.pictures = 0
        """Found by the last walk."""
        self.keys = array("q")
        """Of the pictures found by the last walk that can be opened, in order."""
        self.refused: list[Refused] = []
        """By the last walk."""

    @property
    def known(self) -> int:
        """Pictures of ``measure``'s walk that the job had then."""
        return len(self._known)

    def measure(self) -> None:
        """Count the pictures, and ask the job which of them it has."""
        known = array("q")
        for batch in _batches(self._walk(), OFFERED_AT_ONCE):
            keys = [source.key for source in batch]
            wanted = set(self._jobs.offer(self._job, keys))
            known.extend(key for key in keys if key not in wanted)
        self._known = np.unique(np.array(known, dtype=np.int64))

    def send(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Send what the job lacks; yields whenever a picture is durable or refused.

        Once ``stopped`` says so, nothing more is read and what is under way is finished. Raises
        the ``ClientError`` that concerns all pictures.
        """
        sources = itertools.takewhile(lambda _: not stopped(), self._walk())
        for source, answer in self._jobs.upload(
            self._job,
            self._readable(source for source in sources if not holds(self._known, source.key)),
            number=lambda source: source.key,
            name=lambda source: to_text(source.name)[-NAME_ROOM:],
            concurrency=IN_FLIGHT,
        ):
            if isinstance(answer, OF_ONE_PICTURE):
                self._refuse(source, answer)
            elif isinstance(answer, ClientError):
                raise answer
            yield

    def _walk(self) -> Iterator[Source]:
        """Every picture that can be opened; the others are refused."""
        self.pictures, self.keys, self.refused = 0, array("q"), []
        for source in self._selection.walk():
            self.pictures += 1
            if source.refusal:
                self.refused.append(Refused(source.name, "bad_image", source.refusal))
            else:
                self.keys.append(source.key)
                yield source

    def _readable(self, sources: Iterator[Source]) -> Iterator[tuple[Source, bytes]]:
        for source in sources:
            try:
                yield source, read(source, self._max_bytes)
            except SecondlookError as failure:
                self._refuse(source, failure)

    def _refuse(self, source: Source, failure: SecondlookError | ClientError) -> None:
        self.refused.append(Refused(source.name, failure.reason, str(failure)))


def _batches(sources: Iterator[Source], size: int) -> Iterator[list[Source]]:
    while batch := list(itertools.islice(sources, size)):
        yield batch
