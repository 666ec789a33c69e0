"""What the decoys of a run say of its verifier: shares, a comparison, a page of the wrong yes.

An audit is also written as JSON, so that one of an earlier run can be kept as the baseline for
later ones, in whatever store those are.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.config.settings import ImageSettings
from secondlook.core.images import decode
from secondlook.core.types import DecoyCounts, DecoyKind, DecoyReply, Pixels
from secondlook.evaluation.yes_bias import LEVEL, BiasChange, YesBias, YesShare
from secondlook.labeling.verifier import VerificationRequest, render_view
from secondlook.reports.page import write_page
from secondlook.reports.viewer import (
    DASHED,
    DOTTED,
    SOLID,
    PageBox,
    PageImage,
    PageKind,
    PageView,
    embedded,
    thumbnail,
    viewer_values,
)
from secondlook.store import Store
from secondlook.store.decoys import StoredDecoy
from secondlook.store.runs import Run
from secondlook_client.errors import BadImage, InvalidInput, NotFound, SecondlookError

MAX_BASELINE = 4 * 2**20
"""Bytes of a baseline's file."""
KIND_WORDS = {
    DecoyKind.BACKGROUND: "background",
    DecoyKind.OTHER_CLASS: "other class",
    DecoyKind.SWAPPED_ATTRIBUTE: "swapped attribute",
    DecoyKind.OFF_CENTRE: "off centre",
}
MEANINGS = {
    DecoyKind.BACKGROUND: "Nothing was proposed here.",
    DecoyKind.OTHER_CLASS: "This was proposed, with a confident score, as another class.",
    DecoyKind.SWAPPED_ATTRIBUTE: "The other side of the contrast was answered with a sure yes.",
    DecoyKind.OFF_CENTRE: "This box holds a part of an object only, or lies beside it.",
}
PAGE_KINDS = tuple(
    PageKind(word, sign, line)
    for word, sign, line in zip(
        KIND_WORDS.values(), ("", "≠", "⇄", "◰"), (SOLID, DASHED, DOTTED, DASHED), strict=True
    )
)
"""One for each of ``DecoyKind``."""
VIEW_BYTES = 60_000
"""Of what the verifier saw of one decoy, where it is too large to be kept without loss."""


@dataclass(frozen=True)
class DecoyAudit:
    """The decoys of a run."""

    run: str
    verifier: str
    """Name and digest."""
    counts: DecoyCounts

    @property
    def bias(self) -> YesBias:
        """The shares answered with yes."""
        return YesBias.of(self.counts)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which ``from_json`` reads; the shares beside them are for people."""
        bias = self.bias
        keys = sorted({(kind.value, name) for kind, name, _ in self.counts})
        return {
            "run": self.run,
            "verifier": self.verifier,
            "total": share_json(bias.total),
            "kinds": {kind.value: share_json(one) for kind, one in bias.kinds.items()},
            "classes": {name: share_json(one) for name, one in bias.classes.items()},
            "counts": [
                {"kind": kind, "class_name": name}
                | {
                    reply.value: self.counts.get((DecoyKind(kind), name, reply), 0)
                    for reply in DecoyReply
                }
                for kind, name in keys
            ],
        }

    @classmethod
    def from_json(cls, plain: Any) -> "DecoyAudit":
        """Raises ``InvalidInput``."""
        try:
            counts: Counter[tuple[DecoyKind, str, DecoyReply]] = Counter()
            for row in plain["counts"]:
                for reply in DecoyReply:
                    count, name = row[reply.value], row["class_name"]
                    if type(count) is not int or not 0 <= count < 2**40 or type(name) is not str:
                        raise ValueError(f"a count of {count!r} for the class {name!r}")
                    if count:
                        counts[DecoyKind(row["kind"]), name, reply] += count
            return cls(str(plain["run"])[:200], str(plain["verifier"])[:500], counts)
        except (KeyError, TypeError, ValueError) as cause:
            raise InvalidInput(
                f"this is not what `secondlook decoys RUN --json` prints ({cause!s:.200})"
            ) from cause


def share_json(share: YesShare) -> dict[str, Any]:
    """One share as plain values."""
    low, high = share.interval
    return {
        "asked": share.asked,
        "answered": share.answered,
        "yes": share.yes,
        "abstained": share.abstained,
        "failed": share.failed,
        "share": share.share,
        "interval": [low, high],
    }


def audit_of(store: Store, run: str) -> DecoyAudit:
    """The audit of a run. Raises ``NotFound`` for an unknown one, or one without decoys."""
    source = store.decoys.source(store.results.run(run))
    counts = store.decoys.counts(source.id)
    if not counts:
        raise NotFound(
            f"no decoys were asked in '{source.name}'; label its images as another run, with "
            "--decoys 0.02"
        )
    return DecoyAudit(run, source.verifier, counts)


def read_baseline(path: Path) -> DecoyAudit:
    """A baseline that was kept in a file. Raises ``InvalidInput``."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BASELINE + 1)
        if len(content) > MAX_BASELINE:
            raise InvalidInput(f"{path} has more than {MAX_BASELINE:,} bytes: it is no baseline")
        return DecoyAudit.from_json(json.loads(content))
    except OSError as failure:
        raise InvalidInput(f"{path} cannot be read ({failure.strerror})") from failure
    except (ValueError, RecursionError) as failure:
        raise InvalidInput(f"{path} is no JSON ({failure!s:.200})") from failure
    except InvalidInput as failure:
        raise InvalidInput(f"{path}: {failure}") from failure


def verdict_on(change: BiasChange, baseline: DecoyAudit) -> str:
    """What a comparison says, in a sentence."""
    before, after = change.answered
    if not change.strata:
        return f"no kind of decoy of a class has answers both here and in '{baseline.run}'"
    shares = f"{change.before:.1%} in '{baseline.run}', {change.after:.1%} here"
    counted = (
        f"{before:,} and {after:,} decoys of the same classes and kinds, p = {change.p_value:.2g}"
    )
    if change.risen:
        return f"the verifier says yes more often than before: {shares} ({counted})"
    return (
        f"no sign that it says yes more often than before: {shares} ({counted}; alarm at {LEVEL})"
    )


def write_audit_page(
    path: Path,
    store: Store,
    audit: DecoyAudit,
    shown: int,
    limits: ImageSettings,
    verdict: str = "",
) -> Path:
    """A page of the decoys that were answered with yes, the ``shown`` surest ones."""
    source = store.decoys.source(store.results.run(audit.run))
    wrong = store.decoys.answered_yes(source.id, shown)
    by_image: dict[str, list[StoredDecoy]] = {}
    for one in wrong:
        by_image.setdefault(one.sha256, []).append(one)
    images = [_page_image(place, found) for place, found in enumerate(by_image.values())]
    sha256s, bias = list(by_image), audit.bias

    def load(place: int) -> Pixels:
        return _pixels(store, sha256s[place], images[place].name, limits)

    values = viewer_values(
        images, load, PageView(PAGE_KINDS, source.ontology.names, ("surest yes",))
    )
    return write_page(
        path,
        "decoys.html",
        title=f"decoys of {audit.run}",
        about=audit.verifier,
        figures=_figures(bias),
        verdict=verdict,
        kinds=[_row(KIND_WORDS[kind], one) for kind, one in bias.kinds.items()],
        rows=[(values["colours"].get(n, 0), _row(n, one)) for n, one in bias.classes.items()],
        strip=list(_strip(store, source, wrong, limits)),
        wrong=bias.total.yes,
        **values,
    )


def _figures(bias: YesBias) -> list[tuple[str, str]]:
    low, high = bias.total.interval
    share = "–" if bias.total.share is None else f"{bias.total.share:.1%}"
    return [
        ("decoys", f"{bias.total.asked:,}"),
        ("answered yes", f"{bias.total.yes:,}"),
        ("of those answered", share),
        ("95 % interval", f"{low:.1%}–{high:.1%}"),
    ]


def _row(name: str, share: YesShare) -> list[str]:
    """Cells of a table."""
    low, high = share.interval
    told = "–" if share.share is None else f"{share.share:.1%}"
    silent = share.abstained + share.failed
    return [
        name,
        f"{share.asked:,}",
        f"{share.yes:,}",
        told,
        f"{low:.1%}–{high:.1%}",
        f"{silent:,}",
    ]


def _page_image(order: int, found: Sequence[StoredDecoy]) -> PageImage:
    first = found[0]
    return PageImage(
        first.image or first.sha256,
        first.width,
        first.height,
        [_page_box(one) for one in found],
        flags=list(dict.fromkeys(KIND_WORDS[one.decoy.kind] for one in found)),
        ranks=(order,),
    )


def _page_box(one: StoredDecoy) -> PageBox:
    decoy = one.decoy
    return PageBox(
        decoy.class_name,
        decoy.box,
        list(DecoyKind).index(decoy.kind),
        p_yes=decoy.answer.p_yes,
        exact=decoy.answer.exact,
        asked=f"{decoy.question} ({decoy.view.value})",
        answer=decoy.answer.raw.strip(),
        reason=MEANINGS[decoy.kind],
    )


def _strip(
    store: Store, run: Run, wrong: Sequence[StoredDecoy], limits: ImageSettings
) -> Iterator[dict[str, str]]:
    """What the verifier saw of each decoy that it answered with yes."""
    min_side = int(run.settings.get("view_min_side", 1))
    for one in wrong:
        decoy, source, problem = one.decoy, "", ""
        try:
            image = decode(store.blobs.get(one.sha256), one.image, limits)
            view = VerificationRequest(image, decoy.box, decoy.view, ())
            pixels = render_view(view.image, view.box, view.view, min_side)
            source = embedded(pixels) if pixels.size < VIEW_BYTES else ""
            source = source or thumbnail(pixels, VIEW_BYTES)
        except SecondlookError as failure:
            problem = str(failure)
        yield {
            "source": source,
            "problem": problem,
            "question": decoy.question,
            "p_yes": "" if decoy.answer.p_yes is None else f"{decoy.answer.p_yes:.2f}",
            "kind": KIND_WORDS[decoy.kind],
            "meaning": MEANINGS[decoy.kind],
            "image": one.image or one.sha256,
        }


def _pixels(store: Store, sha256: str, name: str, limits: ImageSettings) -> Pixels:
    try:
        return decode(store.blobs.get(sha256), name, limits).pixels
    except SecondlookError as failure:
        raise BadImage(f"the image cannot be shown: {failure}") from failure
