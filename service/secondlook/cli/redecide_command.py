"""``secondlook redecide``: other thresholds, classes or rules for what is kept, without a model."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import looked_for, ontology_of
from secondlook.cli.stored import opened, stored
from secondlook.cli.tables import counted

if TYPE_CHECKING:
    from secondlook.ontology import Ontology
    from secondlook.store import Store

FIELDS = ("threshold", "accept", "reject")
MEANING = {
    "threshold": "Proposer score from which a box is judged",
    "accept": "P(yes) from which it is accepted",
    "reject": "P(yes) up to which it is rejected",
}


class ByClass(click.ParamType):
    """``0.4`` for every class, or ``dog=0.4`` for one."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """(class name, or empty for every class; the number)."""
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).rpartition("=")
        try:
            return name.strip(), float(number)
        except ValueError:
            self.fail(f"expected a number such as 0.4, or dog=0.4, got '{value}'", param, ctx)


def _by_class(field: str) -> Any:
    told = f"{MEANING[field]}; CLASS=X for one class. Repeat for more."
    return click.option(
        f"--{field}", field, type=ByClass(), multiple=True, metavar="[CLASS=]X", help=told
    )


@click.command("redecide")
@click.argument("run")
@click.argument("new")
@_by_class("threshold")
@_by_class("accept")
@_by_class("reject")
@click.option("--only", multiple=True, metavar="CLASS", help="Keep only these classes.")
@click.option(
    "--max-iou",
    type=click.FloatRange(0, 1),
    help="Boxes of one contrast group that overlap more are one object.  [default: as before]",
)
@looked_for
@stored
def command(
    run: str,
    new: str,
    only: tuple[str, ...],
    max_iou: float | None,
    lines: tuple[str, ...],
    ontology: Path | None,
    **flags: Any,
) -> None:
    """Decide everything that RUN kept again, as the run NEW.

    No model runs and no picture is read: scores and answers are all kept. Classes may get other
    thresholds, or be others altogether (-c, --ontology) as long as their phrases were proposed
    and their questions asked. RUN stays as it is.
    """
    from secondlook.replay.redecide import redecide

    changes = {field: dict(flags.pop(field)) for field in FIELDS}
    with opened(flags) as store:
        wanted = ontology_of(lines, ontology) or store.records.run(run).ontology
        started = time.perf_counter()
        with _progress(store, run) as told:
            found = redecide(store, run, new, _adjusted(wanted, changes, only), max_iou, told)
        seconds = time.perf_counter() - started
    click.echo(
        f"{counted(found.pictures, 'picture')} of '{run}' decided again as '{new}' in "
        f"{seconds:.1f} s" + (f"; done before: {found.before:,}" if found.before else "")
    )
    if found.not_asked:
        click.echo(
            f"{found.not_asked:,} judgements are unsure because that box was never asked about: "
            "a threshold is lower than the one it was labelled with"
        )
    click.echo(f"what changed: secondlook compare {shlex.quote(run)} {shlex.quote(new)}")


def _adjusted(
    ontology: "Ontology", changes: dict[str, dict[str, float]], only: tuple[str, ...]
) -> "Ontology":
    from secondlook.replay.adjusting import adjusted

    return adjusted(ontology, changes, only)


def _progress(store: "Store", run: str) -> Any:
    """A context manager that gives the function to call with how far it is."""
    from contextlib import contextmanager

    total = store.records.count(store.records.run(run).id)

    @contextmanager
    def shown() -> Any:
        with click.progressbar(length=total, label="deciding again", hidden=total < 5000) as bar:
            yield lambda found: bar.update(found.before + found.pictures - bar.pos)

    return shown()
