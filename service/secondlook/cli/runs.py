"""``secondlook explain``: why a label is what it is."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import IN_PROCESS, looked_for, ontology_of, setting_option, settings_of
from secondlook.cli.output import console, counted
from secondlook.cli.store import NAMES, opened, stored
from secondlook_client import LabelPath

if TYPE_CHECKING:
    from rich.console import Console

    from secondlook.core.ontology import Ontology
    from secondlook.core.types import Judgement
    from secondlook.review.compare_runs import Comparison
    from secondlook.review.explain import Again, Explanation, Side
    from secondlook.store import Store
    from secondlook.store.results import Label


def _model_settings(decorated: Any) -> Any:
    for name in reversed(IN_PROCESS):
        decorated = setting_option(name)(decorated)
    return click.option("--models", help="Short for --proposer and --verifier alike.")(decorated)


@click.command("explain")
@click.argument("label")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("explain.html"),
    show_default=True,
    help="Page with the image and the box; overwritten.",
)
@click.option("--again", is_flag=True, help="Run the models on the image again and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@stored
@_model_settings
def explain_command(label: str, out: Path, again: bool, as_json: bool, **flags: Any) -> int:
    """Show everything that LABEL (such as 81.3) came from.

    The image, the box, every class's score, the questions and raw answers, the thresholds in
    force, the models by their digests, and what persons said. With --again the models named by
    --proposer and --verifier look once more; the exit code is 1 when the outcome is another.
    """
    from secondlook.cli.options import image_limits
    from secondlook.review.explain import explain
    from secondlook.review.pages import write_explanation

    settings = settings_of({**flags})
    place = {name: flags[name] for name in (*NAMES, "config")}
    with opened(place) as store:
        found = explain(store, label)
        write_explanation(out, found, store.blobs, image_limits(settings))
        replayed = _ask_again(store, found.label, settings) if again else None
    if as_json:
        click.echo(json.dumps(explanation_json(found, replayed), indent=2))
    else:
        show(found, replayed, out)
    return 1 if replayed and not replayed.same else 0


def _ask_again(store: "Store", label: "Label", settings: Any) -> "Again":
    from dataclasses import replace

    from secondlook.cli.local_service import running_engine
    from secondlook.cli.options import image_limits
    from secondlook.review.explain import ask_again
    from secondlook.server.metrics import Metrics

    known = {name: label.asked_by.settings.get(name) for name in ("floor", "max_boxes", "max_iou")}
    as_then = {name: value for name, value in known.items() if value is not None}
    settings = replace(settings, **as_then, cache_answers=0)
    with running_engine(settings, Metrics()) as engine:
        return ask_again(store, label, engine.pipeline, image_limits(settings))


def explanation_json(found: "Explanation", again: "Again | None" = None) -> dict[str, Any]:
    """The whole explanation as plain values for JSON."""
    label, judgement = found.label, found.label.judgement
    labelled = label.result.labelled
    return {
        "label": label.result.label_id(label.place),
        "class": judgement.class_name,
        "outcome": judgement.decision.outcome.value,
        "probability": judgement.decision.probability,
        "reason": judgement.decision.reason,
        "box": list(judgement.box),
        "image": {
            "name": labelled.name,
            "sha256": labelled.sha256,
            "width": labelled.width,
            "height": labelled.height,
        },
        "run": {
            "name": label.run.name,
            "kind": label.run.kind,
            "asked_by": label.asked_by.name,
            "decided_at": label.result.made_at,
            "max_iou": label.run.max_iou,
        },
        "path": labelled.path.value,
        "proposer": labelled.evidence.proposer,
        "verifier": labelled.evidence.verifier,
        "student": labelled.evidence.student,
        "classes": [_side(side) for side in found.sides],
        "decided_before_persons": _decision(label.decided),
        "corrections": [
            {
                "person": said.person,
                "outcome": said.outcome.value,
                "note": said.note,
                "box": list(said.box),
                "at": said.made_at,
            }
            for said in label.corrections
        ],
        "again": _again(again) if again else None,
    }


def _decision(judgement: Any) -> dict[str, Any] | None:
    if judgement is None:
        return None
    decision = judgement.decision
    return {
        "outcome": decision.outcome.value,
        "probability": decision.probability,
        "reason": decision.reason,
    }


def _side(side: "Side") -> dict[str, Any]:
    spec, verdict = side.spec, side.verdict
    answer = verdict.answer if verdict else None
    return {
        "class": spec.name,
        "contrast": side.contrast,
        "score": side.score,
        "threshold": spec.threshold,
        "view": verdict.view.value if verdict else None,
        "question": verdict.question if verdict else None,
        "p_yes": answer.p_yes if answer else None,
        "exact": answer.exact if answer else None,
        "raw_answer": answer.raw if answer else None,
        "error": answer.error if answer else None,
        "verifier": verdict.model if verdict else None,
        "ms": verdict.ms if verdict else None,
        "accept": spec.accept,
        "reject": spec.reject,
        "decision": _decision(side.judgement),
    }


def _again(again: "Again") -> dict[str, Any]:
    verdict = again.judgement.verdict if again.judgement else None
    return {
        "proposer": again.proposer,
        "verifier": again.verifier,
        "same_models": again.same_models,
        "overlap": again.overlap,
        "score": again.score,
        "p_yes": verdict.answer.p_yes if verdict else None,
        "raw_answer": verdict.answer.raw if verdict else None,
        "decision": _decision(again.judgement),
        "same": again.same,
    }


# An explanation as a person reads it.


def show(found: "Explanation", again: "Again | None", out: Path) -> None:
    """Print it; ``out`` is where the image is."""
    screen = console()
    _line(screen, *_heading(found), style="bold")
    for name, told in _facts(found):
        _line(screen, f"{name:<10}", told)
    if found.sides:
        screen.print(_table(found))
    for said in found.label.corrections:
        _line(screen, f"{_date(said.made_at)}  {said.person}: {said.outcome.value}", said.note)
    if again:
        _show_again(screen, found, again)
    _line(screen, f"The image with the box: {out}")


def _heading(found: "Explanation") -> tuple[str, ...]:
    label, decision = found.label, found.label.judgement.decision
    name = label.result.label_id(label.place)
    return f"{name}  {label.judgement.class_name}: {decision.outcome.value}", decision.reason


def _facts(found: "Explanation") -> list[tuple[str, str]]:
    label, labelled = found.label, found.label.result.labelled
    x1, y1, x2, y2 = label.judgement.box
    facts = [
        ("image", f"{labelled.name}  {labelled.width}×{labelled.height}  {labelled.sha256}"),
        ("box", f"{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}  ({x2 - x1:.0f}×{y2 - y1:.0f} pixels)"),
        ("run", f"{label.run.name} ({label.run.kind}), {_date(label.result.made_at)}"),
    ]
    if label.asked_by.id != label.run.id:
        facts.append(("evidence", f"of the run {label.asked_by.name}"))
    if labelled.path == LabelPath.STUDENT:
        facts.append(("student", f"{labelled.evidence.proposer}, alone; scores are probabilities"))
    else:
        facts.append(("proposer", labelled.evidence.proposer))
        facts.append(("verifier", labelled.evidence.verifier or "none"))
    if labelled.evidence.student:
        facts.append(("audit of", labelled.evidence.student))
    if label.decided and label.corrections:
        facts.append(("the run", _told(label.decided)))
    if not found.sides:
        facts.append(("found by", "a person; no model proposed this box"))
    return facts


def _table(found: "Explanation") -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in (
        "class",
        "score",
        "from",
        "P(yes)",
        "reject ≤",
        "accept ≥",
        "answer",
        "question",
    ):
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    table.add_column("view")
    table.add_column("outcome")
    for side in found.sides:
        style = "bold" if side.spec.name == found.label.judgement.class_name else ""
        style = style or ("" if side.contrast or side.judgement else "dim")
        table.add_row(*(Text(cell) for cell in _cells(side)), style=style)
    return table


_NUMBERS = ("score", "from", "P(yes)", "reject ≤", "accept ≥")


def _cells(side: "Side") -> tuple[str, ...]:
    spec, verdict = side.spec, side.verdict
    limits = (f"{spec.reject:.2f}", f"{spec.accept:.2f}")
    start = (spec.name, f"{side.score:.3f}", f"{spec.threshold:.2f}")
    outcome = side.judgement.decision.outcome.value if side.judgement else "–"
    if verdict is None:
        return (*start, "–", *limits, "–", "not asked", "–", outcome)
    answer = verdict.answer
    p_yes = "–" if answer.p_yes is None else f"{'' if answer.exact else '~'}{answer.p_yes:.3f}"
    said = answer.error or answer.raw.strip() or "–"
    return (*start, p_yes, *limits, said, verdict.question, verdict.view.value, outcome)


def _show_again(screen: "Console", found: "Explanation", again: "Again") -> None:
    models = "the same models" if again.same_models else "other models"
    _line(screen, f"asked again: {models}", f"{again.proposer} → {again.verifier or 'none'}")
    if again.score is None:
        _line(screen, "they do not propose this box", style="red")
        return
    before = found.label.judgement
    _line(screen, f"  box        IoU {again.overlap:.4f} with the one kept")
    _line(screen, f"  score      {before.score:.4f} then, {again.score:.4f} now")
    _line(screen, f"  P(yes)     {_p_yes(before)} then, {_p_yes(again.judgement)} now")
    then = _told(found.label.decided) if found.label.decided else "not judged"
    now = _told(again.judgement) if again.judgement else "not judged"
    _line(screen, f"  outcome    {then} then; {now} now", style="green" if again.same else "red")


def _p_yes(judgement: "Judgement | None") -> str:
    verdict = judgement.verdict if judgement else None
    return f"{verdict.answer.p_yes:.4f}" if verdict and verdict.answer.p_yes is not None else "–"


def _told(judgement: "Judgement") -> str:
    return f"{judgement.decision.outcome.value} ({judgement.decision.reason})"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _line(screen: "Console", *parts: str, style: str = "") -> None:
    told = "  ".join(part for part in parts if part)
    screen.print(told, style=style or None, highlight=False, markup=False, soft_wrap=True)


# ``secondlook redecide``: other thresholds, classes or rules for what is kept, without a model.

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
def redecide_command(
    run: str,
    new: str,
    only: tuple[str, ...],
    max_iou: float | None,
    lines: tuple[str, ...],
    ontology: Path | None,
    **flags: Any,
) -> None:
    """Decide everything that RUN kept again, as the run NEW.

    No model runs and no image is read: scores and answers are all kept. Classes may get other
    thresholds, or be others altogether (-c, --ontology) as long as their phrases were proposed
    and their questions asked. RUN stays as it is.
    """
    from secondlook.review.rejudge import redecide

    changes = {field: dict(flags.pop(field)) for field in FIELDS}
    with opened(flags) as store:
        wanted = ontology_of(lines, ontology) or store.records.run(run).ontology
        started = time.perf_counter()
        with _progress(store, run) as told:
            found = redecide(store, run, new, _adjusted(wanted, changes, only), max_iou, told)
        seconds = time.perf_counter() - started
    click.echo(
        f"{counted(found.images, 'image')} of '{run}' decided again as '{new}' in "
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
    from secondlook.review.rejudge import adjusted

    return adjusted(ontology, changes, only)


def _progress(store: "Store", run: str) -> Any:
    """A context manager that gives the function to call with how far it is."""
    from contextlib import contextmanager

    total = store.records.count(store.records.run(run).id)

    @contextmanager
    def shown() -> Any:
        with click.progressbar(length=total, label="deciding again", hidden=total < 5000) as bar:
            yield lambda found: bar.update(found.before + found.images - bar.pos)

    return shown()


# ``secondlook compare``: what one run labels and another does not.


@click.command("compare")
@click.argument("before")
@click.argument("after")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
    help="Page with the images that changed; overwritten.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Images shown at most, those with most changes first; 0 writes no page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@setting_option("max_image_pixels")
@setting_option("max_image_side")
@stored
def compare_command(
    before: str, after: str, out: Path, shown: int, as_json: bool, **flags: Any
) -> None:
    """Which labels the run AFTER gained and lost against the run BEFORE.

    Boxes of one class that overlap by half are one label. What a person said stands in both.
    """
    from secondlook.cli.options import image_limits
    from secondlook.review.compare_runs import compare
    from secondlook.review.pages import write_comparison

    limits = image_limits(settings_of({**flags}))
    with opened(flags) as store:
        found, changes = compare(store, before, after)
        if shown:
            write_comparison(out, found, changes, store.blobs, shown, limits)
        else:
            for _ in changes:
                pass
    if as_json:
        click.echo(json.dumps(comparison_json(found), indent=2))
        return
    _print(found)
    if shown:
        click.echo(f"The images that changed most: {out}")


def comparison_json(found: "Comparison") -> dict[str, Any]:
    """The figures as plain values for JSON."""
    return {
        "before": found.before.name,
        "after": found.after.name,
        "images": found.images,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "kept": found.kept.total(),
        "gained": found.gained.total(),
        "lost": found.lost.total(),
        "classes": {
            name: {
                "kept": found.kept[name],
                "gained": found.gained[name],
                "lost": found.lost[name],
            }
            for name in found.classes
        },
    }


def _print(found: "Comparison") -> None:
    from rich.table import Table
    from rich.text import Text

    from secondlook.cli.output import console, counted

    figures = comparison_json(found)
    title = f"{found.before.name} → {found.after.name}: {counted(found.images, 'image')}"
    table = Table(title=Text(title), box=None)
    table.add_column("class", overflow="fold")
    for heading in ("kept", "gained", "lost"):
        table.add_column(heading, justify="right")
    rows = [*figures["classes"].items(), ("all", figures)]
    for place, (name, counts) in enumerate(rows):
        cells = [f"{counts[column]:,}" for column in ("kept", "gained", "lost")]
        last = place == len(rows) - 1
        table.add_row(
            Text(name), *cells, style="bold" if last else "", end_section=place == len(rows) - 2
        )
    screen = console()
    screen.print(table)
    for amount, run in ((found.only_before, found.before), (found.only_after, found.after)):
        if amount:
            told = f"left out, with a result in '{run.name}' alone: {counted(amount, 'image')}"
            screen.print(told, style="yellow", highlight=False, markup=False)
