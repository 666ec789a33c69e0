"""Results as the service gives them, made by hand or by hypothesis."""

from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st

from secondlook.core.types import LabelledImage
from secondlook.reports import gallery
from secondlook_client.values import (
    Answer,
    Decision,
    Judgement,
    LabelResult,
    Outcome,
    Verdict,
    View,
)

PROBABILITY = {Outcome.ACCEPT: 0.97, Outcome.REJECT: 0.03, Outcome.UNSURE: 0.5}


def picked(
    images: Sequence[tuple[str, LabelResult]],
    limit: int,
    key: Callable[[LabelResult], tuple[float, ...]] | None = None,
    *,
    cursors: Iterable[int | None] = (),
) -> list[LabelledImage]:
    """What ``gallery.pick`` picks of (name, result), with their cursors where they are given."""
    known = list(cursors) or [None] * len(images)
    every = (LabelledImage(*one, cursor) for one, cursor in zip(images, known, strict=True))
    return gallery.pick(every, limit, key)


def judged(
    class_name: str,
    box: tuple[float, float, float, float] = (10, 20, 60, 90),
    outcome: Outcome = Outcome.ACCEPT,
    *,
    score: float = 0.5,
    error: str = "",
) -> Judgement:
    """One box judged for one class."""
    probability = PROBABILITY[outcome]
    answer = Answer(None, error=error) if error else Answer(probability, "Yes")
    verdict = Verdict(f"Is this a {class_name}?", View.CROP, answer, "scripted@1", 0.0)
    decision = Decision(outcome, probability, f"P(yes) {probability:.2f}")
    return Judgement(class_name, box, score, verdict, decision)


def result(*judgements: Judgement, width: int = 320, height: int = 240) -> LabelResult:
    """An image with these judgements."""
    return LabelResult(
        name="",
        sha256="0" * 64,
        width=width,
        height=height,
        proposals=len({j.box for j in judgements}),
        judgements=judgements,
        proposer="scripted@1",
        verifier="scripted@1",
    )


@st.composite
def boxes(draw: st.DrawFn, width: int = 320, height: int = 240) -> tuple[float, ...]:
    """A box of at least 2 px inside the image."""
    x1 = draw(st.floats(0, width - 2))
    y1 = draw(st.floats(0, height - 2))
    x2 = draw(st.floats(x1 + 2, width)) if x1 + 2 < width else float(width)
    y2 = draw(st.floats(y1 + 2, height)) if y1 + 2 < height else float(height)
    return x1, y1, x2, y2


def results(classes: tuple[str, ...]) -> st.SearchStrategy[LabelResult]:
    """Any result over ``classes``."""
    one = st.builds(
        judged,
        st.sampled_from(classes),
        boxes(),
        st.sampled_from(Outcome),
        score=st.floats(0, 1, width=32),
    )
    return st.lists(one, max_size=6).map(lambda found: result(*found))
