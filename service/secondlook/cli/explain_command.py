"""``secondlook explain``: why a label is what it is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import IN_PROCESS, setting_option, settings_of
from secondlook.cli.stored import NAMES, opened, stored

if TYPE_CHECKING:
    from secondlook.replay.explain import Again, Explanation, Side
    from secondlook.store import Store
    from secondlook.store.records import Label


def _model_settings(command: Any) -> Any:
    for name in reversed(IN_PROCESS):
        command = setting_option(name)(command)
    return click.option("--models", help="Short for --proposer and --verifier alike.")(command)


@click.command("explain")
@click.argument("label")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("explain.html"),
    show_default=True,
    help="Page with the picture and the box; overwritten.",
)
@click.option("--again", is_flag=True, help="Run the models on the picture again and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@stored
@_model_settings
def command(label: str, out: Path, again: bool, as_json: bool, **flags: Any) -> int:
    """Show everything that LABEL (such as 81.3) came from.

    The picture, the box, every class's score, the questions and raw answers, the thresholds in
    force, the models by their digests, and what persons said. With --again the models named by
    --proposer and --verifier look once more; the exit code is 1 when the outcome is another.
    """
    from secondlook.cli.session import image_limits
    from secondlook.replay.explain import explain
    from secondlook.replay.page import write_explanation

    settings = settings_of({**flags})
    place = {name: flags[name] for name in (*NAMES, "config")}
    with opened(place) as store:
        found = explain(store, label)
        write_explanation(out, found, store.blobs, image_limits(settings))
        replayed = _ask_again(store, found.label, settings) if again else None
    if as_json:
        click.echo(json.dumps(as_plain(found, replayed), indent=2))
    else:
        from secondlook.cli.explaining import show

        show(found, replayed, out)
    return 1 if replayed and not replayed.same else 0


def _ask_again(store: "Store", label: "Label", settings: Any) -> "Again":
    from dataclasses import replace

    from secondlook.cli.local_service import running_engine
    from secondlook.cli.session import image_limits
    from secondlook.replay.explain import ask_again
    from secondlook.server.metrics import Metrics

    known = {name: label.asked_by.settings.get(name) for name in ("floor", "max_boxes", "max_iou")}
    as_then = {name: value for name, value in known.items() if value is not None}
    settings = replace(settings, **as_then, cache_answers=0)
    with running_engine(settings, Metrics()) as engine:
        return ask_again(store, label, engine.pipeline, image_limits(settings))


def as_plain(found: "Explanation", again: "Again | None" = None) -> dict[str, Any]:
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
        "picture": {
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
