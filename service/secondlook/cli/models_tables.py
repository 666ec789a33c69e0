"""Versions of models and trainings as a person reads them, and as programs do."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from secondlook.cli.job_tables import moment
from secondlook.cli.tables import console, size
from secondlook_client.model_values import ModelVersion, Training


def as_plain(model: ModelVersion) -> dict[str, Any]:
    """Everything about a version as plain values for JSON."""
    return {
        "name": model.name,
        "version": model.version,
        "current": model.current,
        "digest": model.digest,
        "created_at": model.created_at,
        "promotion": model.promotion,
        "manifest": json.loads(model.manifest_json),
        "report": json.loads(model.report_json) if model.report_json else None,
    }


def print_models(found: Sequence[ModelVersion]) -> None:
    """A line a version."""
    if not found:
        console().print("there is no model yet; `secondlook models add` keeps the first")
        return
    table = Table(box=None)
    for heading in ("model", "version", "", "size", "mAP50", "int8", "made", "snapshot"):
        right = heading in ("version", "mAP50", "int8")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for model in found:
        manifest = json.loads(model.manifest_json)
        figures = manifest["metrics"]
        cells = (
            model.name,
            str(model.version),
            "current" if model.current else "",
            f"{manifest['architecture']} {manifest['size']}",
            *(_figure(figures, name) for name in ("map50", "int8_map50")),
            moment(model.created_at),
            manifest["snapshot"][:16],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)


def print_model(model: ModelVersion) -> None:
    """All that is known of one version."""
    manifest = json.loads(model.manifest_json)
    table = Table(box=None, show_header=False)
    facts = {
        "model": f"{model.name}, version {model.version}" + (", current" if model.current else ""),
        "digest": model.digest,
        "promoted": model.promotion or "never",
        "size": f"{manifest['architecture']} {manifest['size']}, "
        f"{'×'.join(map(str, manifest['input_size']))} pixels",
        "classes": ", ".join(manifest["classes"]),
        "snapshot": manifest["snapshot"],
        "held out": manifest["split"],
        "added": moment(model.created_at),
        **{name: _figure(manifest["metrics"], name) for name in sorted(manifest["metrics"])},
        **{name: size(count) for name, (_, count) in sorted(model.files.items())},
    }
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    console().print(table)


def print_trainings(found: Sequence[Training]) -> None:
    """A line a training."""
    if not found:
        console().print("there is no training yet; `secondlook models train` begins one")
        return
    table = Table(box=None)
    for heading in ("training", "model", "snapshot", "size", "state", "step", "mAP50", "begun", ""):
        table.add_column(heading, overflow="fold")
    for training in found:
        cells = (
            str(training.id),
            training.model,
            training.snapshot,
            training.size,
            str(training.state),
            f"{training.step:,} of {training.of:,}" if training.of else "",
            "" if training.map50 is None else f"{training.map50:.3f}",
            moment(training.created_at),
            training.message or (f"version {training.version}" if training.version else ""),
        )
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)


def _figure(figures: Mapping[str, float], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
