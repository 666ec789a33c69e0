"""What ``secondlook.label`` gives back: the results of all images, in their order."""

import itertools
import os
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from secondlook.api.given_images import FIRST, GivenImages
from secondlook.cli.output import counted
from secondlook.cli.output_folder import (
    FAILED,
    GALLERY,
    RUN,
    FailedImage,
    OutputFolder,
    write_outputs,
)
from secondlook.config.terminal import echo
from secondlook.core.image_folder import OUTPUT_TAG
from secondlook.datasets.writers import LABEL_FORMATS, Labels, Provenance
from secondlook.evaluation.run_stats import Results, RunStats
from secondlook.reports.notebook import notebook_html
from secondlook_client.errors import InvalidInput, OutputExists
from secondlook_client.ontology import Ontology
from secondlook_client.values import LabelResult, Outcome


class LabelResults(Sequence[LabelResult]):
    """The results of all images that could be labelled, in the order of the images.

        for image in labels:
            for label in image.labels:
                print(image.name, label.class_name, label.box, label.p_yes)

    At the end of a notebook's cell it shows the first images with their boxes.
    """

    def __init__(
        self,
        ontology: Ontology,
        results: Results,
        failed: Sequence[FailedImage],
        images: GivenImages,
    ) -> None:
        """``results`` gives (name, result) of each image anew, in order."""
        self.ontology = ontology
        """The classes that were looked for."""
        self.failed = tuple(failed)
        """The images that could not be labelled, each with ``name``, ``reason`` and ``message``."""
        self.stats = RunStats.of(result for _, result in results())
        """Counts over all images."""
        self._results = results
        self._images = images
        models = [model for model in (self.stats.proposer, self.stats.verifier) if model]
        self._dataset = Labels(
            ontology.names,
            lambda: ((images.file_name(name), result) for name, result in results()),
            images.place,
            provenance=Provenance(time.time(), models, ontology),
        )

    def __len__(self) -> int:
        return self.stats.images

    def __iter__(self) -> Iterator[LabelResult]:
        return (result for _, result in self._results())

    @overload
    def __getitem__(self, place: int) -> LabelResult: ...
    @overload
    def __getitem__(self, place: slice) -> list[LabelResult]: ...
    def __getitem__(self, place: int | slice) -> LabelResult | list[LabelResult]:
        """The result of one image by its place, or several."""
        if isinstance(place, slice):
            return list(self)[place]
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} labelled images, there is no {place}")
        return next(itertools.islice(self, place % len(self), None))

    def to_dicts(self) -> list[dict[str, Any]]:
        """A flat row for each box and class that was judged; ``pandas.DataFrame`` takes it as is.

        ``outcome`` is ``accept`` for labels, ``reject`` or ``unsure``; ``x1`` to ``y2`` are pixels
        of the upright image; ``p_yes`` is None where the verifier gave no answer.
        """
        return [
            {
                "image": result.name,
                "class": judgement.class_name,
                **dict(zip(("x1", "y1", "x2", "y2"), judgement.box, strict=True)),
                "outcome": judgement.outcome.value,
                "score": judgement.score,
                "p_yes": judgement.p_yes,
                "probability": judgement.probability,
                "reason": judgement.reason,
            }
            for result in self
            for judgement in result.judgements
        ]

    def detections(self, place: int) -> dict[str, NDArray[Any]]:
        """The labels of one image as arrays, as ``supervision.Detections(**…)`` takes them.

        ``xyxy`` (N, 4) float32 pixels, ``class_id`` (N,) int64, the place of the class in
        ``ontology.names``, and ``confidence`` (N,) float32. Where every label has a mask,
        ``mask`` (N, H, W) bool too.
        """
        labels = self[place].labels
        names = self.ontology.names
        masks = [label.mask for label in labels]
        segmented = [mask.to_array() for mask in masks if mask]
        has_all = bool(labels) and len(segmented) == len(labels)
        return {
            **({"mask": np.stack(segmented)} if has_all else {}),
            "xyxy": np.array([label.box for label in labels], np.float32).reshape(-1, 4),
            "class_id": np.array([names.index(label.class_name) for label in labels], np.int64),
            "confidence": np.array([label.probability for label in labels], np.float32),
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        formats: Sequence[str] = ("coco",),
        gallery: int = 200,
    ) -> list[Path]:
        """Write the labels as ``secondlook label`` does, and return the paths.

        ``formats`` are any of ``coco``, ``coco-polygons``, ``yolo``, ``yolo-seg``, ``voc``,
        ``label-studio``, ``cvat`` and ``fiftyone``; ``gallery.html`` has at most that many images,
        and ``failed.jsonl`` those without labels. What an earlier ``save`` wrote is replaced;
        raises ``OutputExists`` for a folder with anything else of these names.
        """
        formats = (formats,) if isinstance(formats, str) else tuple(formats)
        for name in formats:
            if name not in LABEL_FORMATS:
                raise InvalidInput(f"expected formats of {', '.join(LABEL_FORMATS)}, got '{name}'")
        self._images.check_kept()
        with OutputFolder(Path(folder)) as out:
            _check_free(out.path, formats)
            written = write_outputs(
                out.path,
                self._dataset,
                self._images.pixels,
                self.failed,
                formats=formats,
                shown=gallery,
            )
        for note in written.notes:
            echo(note, err=True)
        return [*written.paths, out.path / FAILED]

    def __repr__(self) -> str:
        """The counts, in a line."""
        stats = self.stats
        by_class = ", ".join(
            f"{name} {counts[Outcome.ACCEPT]:,}" for name, counts in stats.by_class.items()
        )
        failed = f"; {counted(len(self.failed), 'image')} failed" if self.failed else ""
        return (
            f"<{counted(len(self), 'labelled image')}: {counted(stats.accepted, 'label')}"
            f"{f' ({by_class})' if by_class else ''}, {stats.rejected:,} rejected, "
            f"{stats.unsure:,} unsure{failed}>"
        )

    def show(self) -> None:
        """Show the counts and the first images with their boxes, as the end of a cell does.

        In a notebook they appear where this is called; elsewhere a page opens in the browser.
        """
        # Where a notebook runs, IPython is loaded; nothing else needs it.
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            ipython.display.display(self)
            return
        page = Path(tempfile.mkdtemp(prefix="secondlook-"), "labels.html")
        page.write_text(f'<meta charset="utf-8">{self._repr_html_()}', encoding="utf-8")
        webbrowser.open(page.as_uri())

    def _repr_html_(self) -> str:
        """For notebooks: the counts, and the first images with their boxes."""
        first = list(itertools.islice(self._results(), FIRST))
        failed = [(image.name, image.message) for image in self.failed]
        names, load = self.ontology.names, self._images.pixels
        return notebook_html(self.stats, names, first, load, failed)


def _check_free(out: Path, formats: Sequence[str]) -> None:
    """Only what an earlier ``save`` wrote may be replaced. Raises ``OutputExists``."""
    foreign = [RUN, *(name for name in formats if not (out / name / OUTPUT_TAG).exists())]
    if not (out / FAILED).exists():  # which is written first
        foreign.append(GALLERY)
    taken = next((name for name in foreign if os.path.lexists(out / name)), None)
    if taken:
        raise OutputExists(
            f"{out} has a {taken} that was not written by save(); give another folder"
        )
