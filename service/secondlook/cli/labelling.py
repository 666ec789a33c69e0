"""One run from start to outputs, with its progress shown; ``label`` and ``demo`` share it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secondlook.cli.interrupts import gentle_interrupts
from secondlook.cli.progress import bar
from secondlook.cli.session import Session
from secondlook.errors import InvalidInput
from secondlook.formats import Labels
from secondlook.runs.folder import SUFFIXES, Selection
from secondlook.runs.journal import Journal
from secondlook.runs.labelling import Amount, label, measure
from secondlook.runs.outputs import Written, write_outputs


@dataclass(frozen=True)
class Run:
    """A finished run."""

    written: Written
    pictures: int
    """Labelled (or failed) since this start."""
    seconds: float
    """Spent on those."""


def label_into(
    out: Path,
    session: Session,
    selection: Selection,
    *,
    formats: Sequence[str] = ("coco",),
    shown: int = 200,
    fresh: bool = False,
    retry_failed: bool = False,
) -> Run:
    """Label ``selection`` into the folder ``out``, going on where an earlier start stopped."""
    with Journal(out, session.identity(selection.root), fresh=fresh) as journal:
        amount = measure(journal, selection, retry_failed)
        if not amount.pictures:
            raise InvalidInput(
                f"there is no picture in {selection.root}; pictures end in "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        started = time.perf_counter()
        _label(journal, session, selection, amount, retry_failed)
        seconds = time.perf_counter() - started
        labels = Labels(selection.root, session.ontology.names, journal.results)
        written = write_outputs(
            journal, labels, formats=formats, shown=shown, limits=session.image_limits
        )
        return Run(written, amount.pictures - amount.done, seconds)


def _label(
    journal: Journal, session: Session, selection: Selection, amount: Amount, retry_failed: bool
) -> None:
    settled = amount.done
    with (
        bar("labelling", amount.pictures, amount.done) as step,
        gentle_interrupts() as stopped,
    ):

        def tell(count: int) -> None:
            nonlocal settled
            settled = amount.done + count
            step(settled, max(settled, amount.pictures))  # files may appear while it runs

        label(
            journal,
            selection,
            session.label_many,
            max_bytes=session.image_limits.max_bytes,
            retry_failed=retry_failed,
            settled=tell,
            stopped=stopped,
        )
    if stopped() and settled < amount.pictures:
        raise KeyboardInterrupt(
            f"stopped: {settled} of {amount.pictures} pictures are done and kept in "
            f"{journal.out}; the same command goes on from there"
        )
