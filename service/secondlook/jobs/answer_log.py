"""What a verifier said, in a file of JSON lines: kept from the moment it is known.

A run that was killed reads it and asks nothing twice. The last line may be cut short.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from secondlook.core.files import explain_write_errors
from secondlook_client.values import Answer, Verdict, View


class BoxQuestion(NamedTuple):
    """A question about a box of a stored result."""

    cursor: int
    """Of the result."""
    row: int
    """Of its proposals."""
    view: View
    question: str


class AnswerLog:
    """The answers of one run. For one thread."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a missing file is an empty one."""
        self._path = path
        self._known: dict[BoxQuestion, Verdict] = {}
        with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._read(line)

    def known(self, asked: Sequence[BoxQuestion]) -> tuple[Verdict, ...] | None:
        """The answers to all of these questions; None where one is not known."""
        found = [self._known.get(one) for one in asked]
        kept = tuple(verdict for verdict in found if verdict)
        return kept if len(kept) == len(found) else None

    def add(self, answered: Sequence[tuple[BoxQuestion, Verdict]]) -> None:
        """Keep answers; a failure to answer is none, so that it is asked again.

        Raises ``StorageFull``.
        """
        kept = [(asked, verdict) for asked, verdict in answered if not verdict.answer.error]
        if not kept:
            return
        self._known.update(kept)
        lines = [json.dumps([asked.cursor, asked.row, asdict(verdict)]) for asked, verdict in kept]
        with explain_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            # A line that was cut short by the end of a process must not swallow the next one.
            file.write("\n" + "\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, line: str) -> None:
        with suppress(ValueError, TypeError, KeyError):  # a line that was cut short
            cursor, row, plain = json.loads(line)
            answer = plain["answer"]
            verdict = Verdict(
                plain["question"],
                View(plain["view"]),
                Answer(answer["p_yes"], answer["raw"], exact=answer["exact"]),
                plain["model"],
                plain["ms"],
                plain["cached"],
            )
            self._known[BoxQuestion(cursor, row, verdict.view, verdict.question)] = verdict
