"""How a learning loop stands: as values for JSON, and as a page with its curve."""

from pathlib import Path
from typing import Any

from secondlook.core.types import Pixels
from secondlook.evaluation.map_interval import LEVEL
from secondlook.reports.page import write_page
from secondlook.reports.plots import IntervalPoint, interval_curve
from secondlook.reports.viewer import PageView, viewer_values
from secondlook.review.loop_record import LoopRecord, ReviewCost, Round

MINUTE = 60.0


def loop_to_json(record: LoopRecord) -> dict[str, Any]:
    """Plan, rounds and the end of a loop."""
    plan = record.plan
    return {
        "name": plan.name,
        "run": plan.run,
        "strategy": plan.strategy.value,
        "labels": plan.labels.value,
        "seed": plan.seed,
        "held_out": {"images": len(record.held_out), **_cost_json(record.held_out_cost)},
        "rounds": [_round_json(one) for one in record.rounds],
        "seconds": record.costs[-1].seconds if record.done else record.held_out_cost.seconds,
        "stopped": record.stopped,
    }


def _round_json(one: Round) -> dict[str, Any]:
    measured = one.measured
    return {
        "round": one.number,
        "strategy": one.strategy,
        "images": list(one.images),
        "reasons": list(one.reasons),
        **_cost_json(one.cost or ReviewCost()),
        "snapshot": one.snapshot,
        "student": one.student,
        "map50": measured.map50 if measured else None,
        "interval": list(measured.interval) if measured else None,
    }


def _cost_json(cost: ReviewCost) -> dict[str, Any]:
    return {
        "answers": cost.answers,
        "boxes_drawn": cost.boxes,
        "seconds": round(cost.seconds, 1),
        "seconds_measured": cost.measured,
    }


def write_loop_page(path: Path, record: LoopRecord) -> Path:
    """Write the curve of mAP50 over people's time, and the rounds. Raises as ``write_page``."""
    points = [
        IntervalPoint(cost.seconds / MINUTE, one.measured.map50, *one.measured.interval)
        for one, cost in zip(record.done, record.costs, strict=True)
        if one.measured
    ]
    curve = interval_curve(
        points,
        ("minutes of people's time", "mAP50"),
        f"mAP50 on the held-out images after each of {len(points)} rounds",
    )
    best = max((point.value for point in points), default=None)
    spent = record.costs[-1] if record.done else record.held_out_cost
    return write_page(
        path,
        "loop.html",
        title=f"Learning loop {record.plan.name}",
        about=f"chosen by {record.plan.strategy} · {record.stopped or 'under way'}",
        figures=[
            ("rounds", f"{len(points):,}"),
            ("answers", f"{spent.answers:,}"),
            ("boxes drawn", f"{spent.boxes:,}"),
            ("minutes of people", f"{spent.seconds / MINUTE:,.0f}"),
            ("best mAP50", "–" if best is None else f"{best:.3f}"),
        ],
        curve=curve if points else "",
        level=f"{LEVEL:.0%}",
        held_out=len(record.held_out),
        measured=spent.measured,
        rows=[_row(one) for one in record.rounds if one.images],
        **viewer_values([], _no_image, PageView((), (), ())),
    )


def _no_image(place: int) -> Pixels:
    raise LookupError(f"the page of a loop has no image, not even {place}")


def _row(one: Round) -> tuple[str, ...]:
    cost, measured = one.cost or ReviewCost(), one.measured
    low, high = measured.interval if measured else (0.0, 0.0)
    return (
        str(one.number),
        one.strategy,
        f"{len(one.images):,}",
        f"{cost.answers:,}",
        f"{cost.boxes:,}",
        f"{cost.seconds / MINUTE:,.1f}",
        f"{measured.map50:.3f}" if measured else "–",
        f"{low:.3f}–{high:.3f}" if measured else "–",
        one.snapshot,
        one.student,
    )
