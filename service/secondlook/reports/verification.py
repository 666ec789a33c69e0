"""What verification of a dataset found out: counts by class, findings in order, files, a page."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from secondlook.core.drawing import Load
from secondlook.core.types import LabelledImage
from secondlook.datasets.annotated_images import AnnotatedSet
from secondlook.datasets.checked_boxes import CheckedBox, FindingKind, check_boxes
from secondlook.datasets.checked_files import (
    CocoRewriter,
    Key,
    LabelFinding,
    kept_labels,
    verified_name,
    write_findings,
)
from secondlook.datasets.writers import write_format
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook.reports.viewer import DASHED, DOTTED, SOLID, PageKind
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

KINDS = (
    PageKind("kept", "", SOLID, shown=False),
    PageKind("unsure", "?", DASHED),
    PageKind("rejected", "✕", DOTTED),
)
"""As the page calls and shows the outcomes: what there is to look at comes first."""


@dataclass
class ClassCounts:
    """What became of the annotations of one class."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    findings: Counter[FindingKind] = field(default_factory=Counter)

    @property
    def annotations(self) -> int:
        """That were asked about."""
        return self.outcomes.total()


class VerifiedSet:
    """A dataset with what was found out about its annotations."""

    def __init__(
        self,
        annotated: AnnotatedSet,
        files: Mapping[str, Path],
        names: Mapping[str, str],
        results: Iterable[tuple[str, LabelResult]],
        cursors: Iterable[int],
        asked: Iterable[str],
    ) -> None:
        """``files`` are the COCO files by split, if it is COCO. ``names`` by class of the dataset:
        in the ontology, of those that were asked about. ``results`` by name of the image, with
        their ``cursors`` in the job. ``asked``: the names of all images that were to be asked
        about; those without a result have failed."""
        self.annotated = annotated
        by_name = {image.name: image for image in annotated.images}
        self._results = dict(results)
        self._cursors = dict(zip(self._results, cursors, strict=True))
        self._failed = set(asked) - self._results.keys()
        self._boxes = {
            name: check_boxes(by_name[name], annotated.classes, result, names)
            for name, result in self._results.items()
        }
        self._files = {split: CocoRewriter(path, split, annotated) for split, path in files.items()}

    @property
    def images(self) -> int:
        """Images that the verifier was asked about."""
        return len(self._results)

    @cached_property
    def counts(self) -> dict[str, ClassCounts]:
        """By class of the dataset, in its order; only classes that were asked about."""
        found: dict[str, ClassCounts] = {}
        for boxes in self._boxes.values():
            for checked in boxes:
                counts = found.setdefault(checked.class_name, ClassCounts())
                counts.outcomes[checked.outcome] += not checked.missing
        for finding in self.findings:
            if finding.checked.kind:
                counts = found.setdefault(finding.checked.class_name, ClassCounts())
                counts.findings[finding.checked.kind] += 1
        order = [*self.annotated.classes, *found]
        return {name: found[name] for name in dict.fromkeys(order) if name in found}

    @cached_property
    def findings(self) -> list[LabelFinding]:
        """The most suspicious first."""
        ids = self._ids()
        found = []
        for name, boxes in self._boxes.items():
            places = {id(j): place for place, j in enumerate(self._results[name].judgements)}
            for checked in boxes:
                number = _next_id(ids, (name, checked.class_name, checked.box))
                label_id = f"{self._cursors[name]}.{places[id(checked.judgement)]}"
                found.append(LabelFinding(name, number, checked, label_id))
        for rewriter in self._files.values():
            for (name, class_name, box), number in rewriter.without_area():
                found.append(LabelFinding(name, number, CheckedBox(class_name, box, None)))
        return sorted(
            (finding for finding in found if finding.checked.kind),
            key=lambda finding: finding.checked.suspicion,
        )

    def _ids(self) -> dict[Key, list[int | str]]:
        ids: dict[Key, list[int | str]] = {}
        for rewriter in self._files.values():
            for key, of_key in rewriter.ids().items():
                ids.setdefault(key, []).extend(of_key)
        return ids

    @cached_property
    def stats(self) -> RunStats:
        """The figures of all annotations, and of what the page shows besides."""
        return RunStats.of(image.result for image in self._shown())

    def write(self, out: Path, formats: Sequence[str]) -> list[Path]:
        """Write the findings and what was kept into ``out``; the files and folders.

        ``formats`` names those of ``datasets.writers``, besides the COCO files that there are.
        """
        paths = [*write_findings(self.findings, out)]
        checked: dict[Key, list[CheckedBox]] = {}
        for name, boxes in self._boxes.items():
            for one in boxes:
                if not one.missing:
                    checked.setdefault((name, one.class_name, one.box), []).append(one)
        for split, rewriter in self._files.items():
            paths.append(out / verified_name(split))
            rewriter.write(paths[-1], checked)
        hashes: dict[str, str | None] = dict.fromkeys(self._failed)
        hashes |= {name: result.sha256 for name, result in self._results.items()}
        kept = kept_labels(self.annotated, checked, hashes) if formats else {}
        return [*paths, *(write_format(name, kept, out) for name in formats)]

    def write_page(self, path: Path, limit: int, load: Load) -> Path:
        """Write the page of at most ``limit`` images, the most suspicious first."""
        best = gallery.pick(self._shown(), limit, self._suspicion)
        classes = self.annotated.classes
        return gallery.write(
            path,
            "verified annotations",
            self.stats,
            best,
            load,
            order="most suspicious",
            classes=classes,
            kinds=KINDS,
            originals=[f"{os.path.relpath(self.annotated.root, os.path.realpath(path.parent))}/"],
        )

    def _suspicion(self, result: LabelResult) -> tuple[float, ...]:
        """That of the worst box."""
        return min((checked.suspicion for checked in self._boxes[result.name]), default=(9, 1.0))

    def _shown(self) -> Iterator[LabelledImage]:
        for name, result in self._results.items():
            judgements = [j for checked in self._boxes[name] for j in _judgements(checked)]
            yield LabelledImage(name, replace(result, name=name, judgements=tuple(judgements)))


def _next_id(ids: dict[Key, list[int | str]], key: Key) -> int | str | None:
    """Annotations that are the same have their ids in order."""
    return ids[key].pop(0) if ids.get(key) else None


def _judgements(checked: CheckedBox) -> Iterator[Judgement]:
    """What the page shows of one annotation: the box, and a better one if there is."""
    if checked.judgement:
        outcome = Outcome.UNSURE if checked.missing else checked.outcome
        decision = Decision(outcome, checked.judgement.probability, checked.reason)
        yield replace(checked.judgement, class_name=checked.class_name, decision=decision)
    if checked.better:
        reason = f"seems to be the box of an annotation of '{checked.class_name}' nearby"
        decision = Decision(Outcome.UNSURE, checked.better.probability, reason)
        yield replace(checked.better, class_name=checked.class_name, decision=decision)
