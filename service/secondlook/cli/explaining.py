"""An explanation as a person reads it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondlook.cli.tables import console
from secondlook_client import LabelPath

if TYPE_CHECKING:
    from rich.console import Console

    from secondlook.labels import Judgement
    from secondlook.replay.explain import Again, Explanation, Side


def show(found: "Explanation", again: "Again | None", out: Path) -> None:
    """Print it; ``out`` is where the picture is."""
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
    _line(screen, f"The picture with the box: {out}")


def _heading(found: "Explanation") -> tuple[str, ...]:
    label, decision = found.label, found.label.judgement.decision
    name = label.result.label_id(label.place)
    return f"{name}  {label.judgement.class_name}: {decision.outcome.value}", decision.reason


def _facts(found: "Explanation") -> list[tuple[str, str]]:
    label, labelled = found.label, found.label.result.labelled
    x1, y1, x2, y2 = label.judgement.box
    facts = [
        ("picture", f"{labelled.name}  {labelled.width}×{labelled.height}  {labelled.sha256}"),
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
