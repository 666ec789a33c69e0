"""``secondlook decoys``: how often the verifier of a run said yes where the answer is no.

Opens a store itself, without a server; no model runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import settings_of
from secondlook.cli.output import console, table
from secondlook.cli.store import STORE_FLAGS, opened_store, run_of, store_options
from secondlook.config.entrypoint import SectionedCommand, setting_options
from secondlook.config.settings import ImageSettings
from secondlook.config.terminal import echo, print_json

if TYPE_CHECKING:
    from secondlook.evaluation.yes_bias import BiasChange, YesShare
    from secondlook.review.decoy_audit import DecoyAudit


@click.command(
    "decoys",
    cls=SectionedCommand,
    examples=[
        "secondlook decoys labels",
        "secondlook decoys street --data data --json > baseline.json",
        "secondlook decoys later --data data --against baseline.json",
    ],
)
@click.argument("run")
@click.option(
    "--against",
    metavar="RUN|FILE",
    help="Test whether the verifier says yes more often than in this run, or in this file with the "
    "--json of one. The exit code is 1 if it does.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("decoys.html"),
    show_default=True,
    help="HTML page with the decoys that were answered yes; it is overwritten.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0, 600),
    default=120,
    show_default=True,
    metavar="N",
    help="Maximum number of decoys on the page; 0 writes no page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@setting_options(ImageSettings)
@store_options
def decoys_command(
    run: str, against: str | None, out: Path, shown: int, as_json: bool, **flags: Any
) -> int:
    """Show how often the verifier of RUN said yes where the answer is known to be no.

    RUN is a run or job of the store (--data), or the output folder of `secondlook label`. Its
    decoys were asked with --decoys 0.02, two for every hundred real questions. A share is not
    exactly the verifier's error: a background box may show what the proposer missed, and a box
    that is off centre a part of the object. So compare it with earlier decoys of the same verifier
    (--against): 400 on both sides find a rise of 10 points.
    """
    limits = settings_of({**flags}).images
    places = {name: flags[name] for name in STORE_FLAGS}
    baseline = _audit(against, {**places}) if against else None
    _, name = run_of(run, places)
    with opened_store(places) as store:
        from secondlook.evaluation.yes_bias import compare
        from secondlook.review.decoy_audit import audit_of, verdict_on, write_audit_page

        audit = audit_of(store, name)
        change = compare(baseline.bias.strata, audit.bias.strata) if baseline else None
        verdict = verdict_on(change, baseline) if change and baseline else ""
        if shown:
            write_audit_page(out, store, audit, shown, limits, verdict)
    if as_json:
        print_json({**audit.to_json(), "change": _change_json(change)}, indent=2)
    else:
        _print_audit(audit)
        if baseline and baseline.verifier != audit.verifier:
            echo(f"the verifiers differ: {baseline.verifier} in '{baseline.run}'")
        if verdict:
            echo(verdict)
        if shown:
            echo(f"What it said yes to: {out}")
    return int(change is not None and change.risen)


def _audit(name: str, places: dict[str, Any]) -> "DecoyAudit":
    """Of a run, an output folder or a file."""
    from secondlook.review.decoy_audit import audit_of, read_baseline

    if Path(name).is_file():
        return read_baseline(Path(name))
    _, run = run_of(name, places)
    with opened_store(places) as store:
        return audit_of(store, run)


def _change_json(change: "BiasChange | None") -> dict[str, Any] | None:
    if change is None:
        return None
    before, after = change.answered
    return {
        "before": change.before,
        "after": change.after,
        "answered_before": before,
        "answered_after": after,
        "p_value": change.p_value,
        "risen": change.risen,
    }


def _print_audit(audit: "DecoyAudit") -> None:
    from rich.text import Text

    from secondlook.review.decoy_audit import KIND_WORDS

    numbers = ("asked", "yes", "share", "95 % interval", "no answer")
    bias = audit.bias
    kinds = table("kind of decoy", *numbers, right=numbers)
    for kind, share in bias.kinds.items():
        kinds.add_row(Text(KIND_WORDS[kind]), *_cells(share))
    classes = table("class asked about", *numbers, right=numbers)
    for name, share in bias.classes.items():
        classes.add_row(Text(name), *_cells(share))
    classes.add_row("all", *_cells(bias.total), style="bold")
    screen = console()
    screen.print(kinds)
    screen.print(classes)


def _cells(share: "YesShare") -> tuple[str, ...]:
    low, high = share.interval
    told = "–" if share.share is None else f"{share.share:.3f}"
    silent = f"{share.abstained + share.failed:,}"
    return (f"{share.asked:,}", f"{share.yes:,}", told, f"{low:.3f}–{high:.3f}", silent)
