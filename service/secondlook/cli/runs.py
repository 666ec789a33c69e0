"""Commands about what a run decided: explain one label, redecide a whole run, compare two runs.

Each command is followed by what it prints. All three read a store, without a server.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.calibrators import NONE, find_calibrator
from secondlook.cli.options import (
    class_options,
    in_process_options,
    models_option,
    ontology_of,
    settings_of,
)
from secondlook.cli.output import console, counted, local_time, table
from secondlook.cli.params import NamedNumber
from secondlook.cli.store import STORE_FLAGS, opened_store, store_options
from secondlook.config.entrypoint import Command, SectionedCommand, setting_options
from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.settings import ImageSettings, Settings
from secondlook.config.terminal import echo, print_json
from secondlook_client import LabelPath

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from secondlook.review.compare_runs import RunComparison
    from secondlook.review.explain import ClassEvidence, Explanation, Rerun
    from secondlook.review.redecide import RedecideProgress
    from secondlook.store import Store
    from secondlook.store.results import LabelProvenance
    from secondlook_client.values import Judgement


@click.command(
    "explain",
    cls=SectionedCommand,
    examples=[
        "secondlook explain 81.3 labels",
        "secondlook explain 81.3 --data data",
    ],
)
@click.argument("label")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("explain.html"),
    show_default=True,
    help="HTML page with what the verifier saw and how it was decided; it is overwritten.",
)
@click.option(
    "--rerun", is_flag=True, help="Run the models on the image again and compare the outcome."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@store_options
@models_option
@in_process_options
def explain_command(
    label: str, folder: Path | None, out: Path, rerun: bool, as_json: bool, **flags: Any
) -> int:
    """Show how LABEL was decided, for example 81.3.

    LABEL is a label_id in gallery.html or the COCO or VOC files of `secondlook label`, in the
    output of `secondlook job results`, or on the page of `secondlook compare`. FOLDER is the output
    folder of `secondlook label`; without it --data says where the store is. Shows the image, the
    box, the scores of every class, the questions and raw answers, the thresholds, the models with
    their digests, and the reviews of people.

    With --rerun the models of --proposer and --verifier label the image again; the exit code is 1
    when the outcome differs.
    """
    if folder:
        from secondlook.cli.output_folder import store_of

        if flags["data"]:
            raise click.UsageError("give FOLDER or --data, not both")
        flags["data"] = str(store_of(folder))
    settings = settings_of({**flags})
    if rerun:
        check_extras("running models here", *extras_of_models(settings))
    with opened_store({name: flags[name] for name in STORE_FLAGS}) as store:
        from secondlook.review.explain import explain
        from secondlook.review.pages import write_explanation

        explanation = explain(store, label)
        again = _rerun(store, explanation.label, settings) if rerun else None
        write_explanation(out, explanation, store.blobs, settings.images, again)
    if as_json:
        print_json(explanation_json(explanation, again), indent=2)
    else:
        _print_explanation(explanation, again, out)
    return 1 if again and not again.same_outcome else 0


def _rerun(store: "Store", label: "LabelProvenance", settings: Settings) -> "Rerun":
    from secondlook.cli.local_service import running_engine
    from secondlook.review.explain import rerun_models
    from secondlook.server.metrics import Metrics

    names = replace(settings.pipeline, verify_empty=True).recorded().keys()
    then = {"verify_empty": False, **label.evidence_run.settings}
    as_then = {name: then[name] for name in names & then.keys()}
    # The run's own calibrator decides what they give.
    fixed = {"verdict_cache_size": 0, "calibrator": NONE, "verify_budget": "all"}
    settings = settings.replace(**as_then | fixed)
    with running_engine(settings, Metrics()) as engine:
        return rerun_models(store, label, engine.pipeline, settings.images)


def explanation_json(explanation: "Explanation", rerun: "Rerun | None" = None) -> dict[str, Any]:
    """Everything as values for JSON."""
    label, judgement = explanation.label, explanation.label.judgement
    labelled = label.result.labelled
    return {
        "label": label.result.label_id(label.index),
        "class_name": judgement.class_name,
        "outcome": judgement.outcome.value,
        "probability": judgement.probability,
        "reason": judgement.reason,
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
            "evidence_run": label.evidence_run.name,
            "decided_at": label.result.decided_at,
            "nms_iou": label.run.nms_iou,
        },
        "path": labelled.path.value,
        "proposer": labelled.evidence.proposer,
        "verifier": labelled.evidence.verifier,
        "student": labelled.evidence.student,
        "segmenter": labelled.evidence.segmenter,
        "segmentation": judgement.to_dict()["segmentation"],
        "classes": [_class_json(evidence) for evidence in explanation.classes],
        "calibrator": explanation.calibrator.digest if explanation.calibrator else None,
        "contributions": [asdict(one) for one in explanation.contributions],
        "whole_image": judgement.whole_image,
        "image_verdicts": [
            {"question": verdict.question, "p_yes": answer.p_yes, "raw_answer": answer.raw}
            | {"error": answer.error, "view": verdict.view.value, "verifier": verdict.model}
            for verdict in labelled.evidence.image_verdicts
            for answer in (verdict.answer,)
        ],
        "uncertainties": [one.to_dict() for one in explanation.uncertainties],
        "decision_before_reviews": _decision_json(label.decided),
        "reviews": [review.to_dict() for review in label.reviews],
        "rerun": _rerun_json(rerun) if rerun else None,
    }


def _decision_json(judgement: "Judgement | None") -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {
        "outcome": judgement.outcome.value,
        "probability": judgement.probability,
        "reason": judgement.reason,
    }


def _class_json(evidence: "ClassEvidence") -> dict[str, Any]:
    spec, verdict = evidence.spec, evidence.verdict
    answer = verdict.answer if verdict else None
    return {
        "class_name": spec.name,
        "same_group": evidence.same_group,
        "score": evidence.score,
        "threshold": spec.threshold,
        "view": verdict.view.value if verdict else None,
        "question": verdict.question if verdict else None,
        "p_yes": answer.p_yes if answer else None,
        "exact": answer.exact if answer else None,
        "raw_answer": answer.raw if answer else None,
        "error": answer.error if answer else None,
        "verifier": verdict.model if verdict else None,
        "verify_ms": verdict.ms if verdict else None,
        "reused_from": verdict.reused_from if verdict else "",
        "accept": spec.accept,
        "reject": spec.reject,
        "decision": _decision_json(evidence.judgement),
    }


def _rerun_json(rerun: "Rerun") -> dict[str, Any]:
    verdict = rerun.judgement.verdict if rerun.judgement else None
    return {
        "proposer": rerun.proposer,
        "verifier": rerun.verifier,
        "same_models": rerun.same_models,
        "overlap": rerun.overlap,
        "score": rerun.score,
        "p_yes": verdict.answer.p_yes if verdict else None,
        "raw_answer": verdict.answer.raw if verdict else None,
        "decision": _decision_json(rerun.judgement),
        "same_outcome": rerun.same_outcome,
    }


def _print_explanation(explanation: "Explanation", rerun: "Rerun | None", page: Path) -> None:
    from secondlook.labeling.applied_reviews import review_words

    screen, label = console(), explanation.label
    name, judgement = label.result.label_id(label.index), label.judgement
    heading = f"{name}  {judgement.class_name}: {judgement.outcome.value}"
    _print_line(screen, heading, judgement.reason, style="bold")
    for fact, value in _facts(explanation):
        _print_line(screen, f"{fact:<10}", value)
    if explanation.classes:
        screen.print(_class_table(explanation))
    if explanation.contributions:
        screen.print(_contribution_table(explanation))
    for review in label.reviews:
        when = local_time(review.created_at)
        _print_line(screen, f"{when}  {review.person}", review_words(review))
    if rerun:
        _print_rerun(screen, explanation, rerun)
    _print_line(screen, f"What the verifier saw, and the box in its image: {page}")


def _facts(explanation: "Explanation") -> list[tuple[str, str]]:
    from secondlook.review.explain import mask_words

    label, labelled = explanation.label, explanation.label.result.labelled
    x1, y1, x2, y2 = label.judgement.box
    facts = [
        ("image", f"{labelled.name}  {labelled.width}×{labelled.height}  {labelled.sha256}"),
        ("box", f"{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}  ({x2 - x1:.0f}×{y2 - y1:.0f} pixels)"),
        ("run", f"{label.run.name} ({label.run.kind}), {local_time(label.result.decided_at)}"),
    ]
    if label.evidence_run.id != label.run.id:
        facts.append(("evidence", f"of the run {label.evidence_run.name}"))
    if labelled.path is LabelPath.STUDENT:
        facts.append(("student", f"{labelled.evidence.proposer}, alone; scores are probabilities"))
    else:
        facts.append(("proposer", labelled.evidence.proposer))
        facts.append(("verifier", labelled.evidence.verifier or "none"))
    if (verdict := label.judgement.verdict) and verdict.reused_from:
        facts.append(("answer", f"to {verdict.reused_from}; this place barely changed since"))
    if said := mask_words(label.judgement):
        facts.append(("mask", said))
    if labelled.evidence.student:
        facts.append(("audit of", labelled.evidence.student))
    if label.decided and label.reviews:
        facts.append(("the run", _outcome_and_reason(label.decided)))
    facts += [("image", said) for said in _said_of_image(label)]
    facts += [("uncertain", one.words) for one in explanation.uncertainties]
    if not explanation.classes:
        facts.append(("added by", "a person; no model proposed this box"))
    return facts


def _said_of_image(label: "LabelProvenance") -> Iterator[str]:
    """What the verifier answered about the whole image and the label's class, if it was asked."""
    image, class_name = label.result.labelled.evidence.image, label.judgement.class_name
    if image is None or label.judgement.whole_image:
        return
    asked = [s.presence_question for s in label.run.ontology.classes if s.name == class_name]
    for question in asked:
        answer = image.verdict(question).answer
        p_yes = answer.error or answer.raw if answer.p_yes is None else f"P(yes) {answer.p_yes:.3f}"
        yield f"as a whole: {question}  {p_yes}"


def _contribution_table(explanation: "Explanation") -> "Table":
    """Why the calibrator gave the label its probability."""
    from rich.text import Text

    rows = table("the probability comes from", "value", "log odds", right=("value", "log odds"))
    for reason in explanation.reasons:
        rows.add_row(*map(Text, reason))
    return rows


def _class_table(explanation: "Explanation") -> "Table":
    from rich.text import Text

    numbers = ("score", "threshold", "P(yes)", "reject ≤", "accept ≥")
    rows = table("class", *numbers, "answer", "question", "view", "outcome", right=numbers)
    for evidence in explanation.classes:
        style = "bold" if evidence.spec.name == explanation.label.judgement.class_name else ""
        style = style or ("" if evidence.same_group or evidence.judgement else "dim")
        rows.add_row(*(Text(cell) for cell in _class_cells(evidence)), style=style)
    return rows


def _class_cells(evidence: "ClassEvidence") -> tuple[str, ...]:
    spec, verdict = evidence.spec, evidence.verdict
    limits = (f"{spec.reject:.2f}", f"{spec.accept:.2f}")
    start = (spec.name, f"{evidence.score:.3f}", f"{spec.threshold:.2f}")
    outcome = evidence.judgement.outcome.value if evidence.judgement else "–"
    if verdict is None:
        return (*start, "–", *limits, "–", "not asked", "–", outcome)
    answer = verdict.answer
    p_yes = "–" if answer.p_yes is None else f"{'' if answer.exact else '~'}{answer.p_yes:.3f}"
    text = answer.error or answer.raw.strip() or "–"
    return (*start, p_yes, *limits, text, verdict.question, verdict.view.value, outcome)


def _print_rerun(screen: "Console", explanation: "Explanation", rerun: "Rerun") -> None:
    models = "the same models" if rerun.same_models else "other models"
    _print_line(screen, f"rerun with {models}", f"{rerun.proposer} → {rerun.verifier or 'none'}")
    if rerun.score is None:
        _print_line(screen, "they do not propose this box", style="red")
        return
    before = explanation.label.judgement
    _print_line(screen, f"  box        IoU {rerun.overlap:.4f} with the stored one")
    _print_line(screen, f"  score      {before.score:.4f} before, {rerun.score:.4f} now")
    _print_line(screen, f"  P(yes)     {_p_yes(before)} before, {_p_yes(rerun.judgement)} now")
    then, now = _outcome_and_reason(explanation.label.decided), _outcome_and_reason(rerun.judgement)
    style = "green" if rerun.same_outcome else "red"
    _print_line(screen, f"  outcome    {then} before; {now} now", style=style)


def _p_yes(judgement: "Judgement | None") -> str:
    return f"{judgement.p_yes:.4f}" if judgement and judgement.p_yes is not None else "–"


def _outcome_and_reason(judgement: "Judgement | None") -> str:
    return f"{judgement.outcome.value} ({judgement.reason})" if judgement else "not judged"


def _print_line(screen: "Console", *parts: str, style: str = "") -> None:
    line = "  ".join(part for part in parts if part)
    screen.print(line, style=style or None, highlight=False, markup=False, soft_wrap=True)


MAX_CHANGES = 20
"""Pairs of classes that the terminal shows."""
THRESHOLDS = {
    "threshold": "Proposer score from which a box is judged",
    "accept": "P(yes) from which a box is accepted",
    "reject": "P(yes) up to which a box is rejected",
}


def _threshold_options(command: Command) -> Command:
    """``--threshold``, ``--accept`` and ``--reject``."""
    for name, meaning in reversed(THRESHOLDS.items()):
        command = click.option(
            f"--{name}",
            name,
            type=NamedNumber("0.4, or dog=0.4", bare=True),
            multiple=True,
            metavar="[CLASS=]X",
            help=f"{meaning}, for all classes or for one. Repeat for more classes.",
        )(command)
    return command


@click.command(
    "redecide",
    cls=SectionedCommand,
    examples=[
        "secondlook redecide street stricter --accept 0.8 --data data",
        "secondlook redecide street animals --ontology animals.yaml --data data",
    ],
)
@click.argument("run")
@click.argument("new")
@_threshold_options
@click.option(
    "--only", multiple=True, metavar="CLASS", help="Keep only this class. Repeat for more classes."
)
@click.option(
    "--nms-iou",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Boxes of one contrast group with a higher IoU are one object.  [default: as in RUN]",
)
@click.option(
    "--duplicate-iou",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Of accepted boxes of one class with a higher IoU, the most probable one stays; 1 keeps "
    "them all.  [default: as in RUN]",
)
@click.option(
    "--calibrator",
    metavar="FILE|NAME|none",
    help="Decide by the probabilities of this calibrator: its file, or its name in the store; "
    "'none' decides by the answers of the verifier.  [default: as in RUN]",
)
@class_options
@store_options
def redecide_command(
    run: str,
    new: str,
    only: tuple[str, ...],
    nms_iou: float | None,
    duplicate_iou: float | None,
    calibrator: str | None,
    lines: tuple[str, ...],
    ontology: Path | None,
    **flags: Any,
) -> None:
    """Decide all results of RUN again, by other thresholds, classes or rules, as the run NEW.

    No model runs and no image is read, because all scores and answers are stored. Other classes
    (-c, --ontology) can be decided if their phrases were proposed and their questions asked in RUN.
    RUN itself does not change.
    """
    changes = {name: dict(flags.pop(name)) for name in THRESHOLDS}
    with opened_store(flags) as store:
        from secondlook.review.redecide import adjusted_ontology, redecide

        wanted = ontology_of(lines, ontology) or store.results.run(run).ontology
        wanted = adjusted_ontology(wanted, changes, only)
        started = time.perf_counter()
        by = find_calibrator(calibrator, store) if calibrator not in (None, NONE) else None
        with _redecide_bar(store, run) as progress:
            done = redecide(
                store,
                run,
                new,
                wanted,
                nms_iou,
                progress,
                duplicate_iou=duplicate_iou,
                calibrator="" if calibrator == NONE else by,
            )
        seconds = time.perf_counter() - started
    echo(
        f"{counted(done.images, 'image')} of '{run}' decided again as '{new}' in "
        f"{seconds:.1f} s" + (f"; {done.before:,} had been before" if done.before else "")
    )
    if done.not_asked:
        echo(
            f"{counted(done.not_asked, 'decision')} (one box for one class) unsure because the "
            "question was not asked: a threshold is lower than in the labelling run, or a whole "
            "image was not asked about the class"
        )
    echo(f"see what changed: secondlook compare {shlex.quote(run)} {shlex.quote(new)}")


@contextmanager
def _redecide_bar(store: "Store", run: str) -> "Iterator[Callable[[RedecideProgress], None]]":
    """A function that shows the progress; short runs show none."""
    total = store.results.count(store.results.run(run).id)
    with click.progressbar(length=total, label="deciding", hidden=total < 5000) as bar:
        yield lambda done: bar.update(done.before + done.images - bar.pos)


@click.command(
    "compare",
    cls=SectionedCommand,
    examples=[
        "secondlook compare street stricter --data data --out compare.html",
    ],
)
@click.argument("before")
@click.argument("after")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
    help="HTML page with the images that differ most; it is overwritten.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0),
    default=600,
    show_default=True,
    metavar="N",
    help="Maximum number of images on the page, which then has up to 10 MB; 0 writes no page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@setting_options(ImageSettings)
@store_options
def compare_command(
    before: str, after: str, out: Path, shown: int, as_json: bool, **flags: Any
) -> None:
    """Show which labels the run AFTER gained and lost compared with the run BEFORE.

    Boxes of one class with an IoU of 0.5 or more are the same label; a box that has another class
    in AFTER is counted as changed, neither as gained nor as lost. The page names each lost box and
    shows both runs side by side. Reviews of people count in both runs.
    """
    limits = settings_of({**flags}).images
    with opened_store({name: flags[name] for name in STORE_FLAGS}) as store:
        from secondlook.review.compare_runs import compare_runs
        from secondlook.review.pages import write_comparison

        comparison, differences = compare_runs(store, before, after)
        if shown:
            write_comparison(out, comparison, differences, store.blobs, shown, limits)
        else:
            for _ in differences:
                pass
    if as_json:
        print_json(comparison_json(comparison), indent=2)
        return
    _print_comparison(comparison)
    if shown:
        echo(f"Each lost box, and the images that differ most: {out}")


def comparison_json(comparison: "RunComparison") -> dict[str, Any]:
    """The counts as values for JSON."""
    counts = {name: getattr(comparison, name) for name in ("kept", "gained", "lost", "changed")}
    return {
        "before": comparison.before.name,
        "after": comparison.after.name,
        "images": comparison.images,
        "only_before": comparison.only_before,
        "only_after": comparison.only_after,
        **{name: of_class.total() for name, of_class in counts.items()},
        "classes": {
            name: {
                "kept": comparison.kept[name],
                "gained": comparison.gained[name],
                "lost": comparison.lost[name],
                "changed": comparison.changed_from(name),
            }
            for name in comparison.classes
        },
        "changes": [
            {"before": before, "after": after, "count": count}
            for (before, after), count in comparison.changed.most_common()
        ],
    }


def _print_comparison(comparison: "RunComparison") -> None:
    from rich.text import Text

    figures, columns = comparison_json(comparison), ("kept", "gained", "lost", "changed")
    rows = table("class", *columns, right=columns)
    before, after = comparison.before, comparison.after
    images = counted(comparison.images, "image")
    rows.title = Text(f"{before.name} → {after.name}: labels on {images}")
    for name, counts in figures["classes"].items():
        rows.add_row(Text(name), *(f"{counts[column]:,}" for column in columns))
    rows.add_section()
    rows.add_row("all", *(f"{figures[column]:,}" for column in columns), style="bold")
    screen = console()
    screen.print(rows)
    for change in figures["changes"][:MAX_CHANGES]:
        line = f"changed from {change['before']} to {change['after']}: {change['count']:,}"
        screen.print(line, highlight=False, markup=False)
    for amount, run in ((comparison.only_before, before), (comparison.only_after, after)):
        if amount:
            line = f"left out, with a result only in '{run.name}': {counted(amount, 'image')}"
            screen.print(line, style="yellow", highlight=False, markup=False)
