"""The images of a run among which ``selection`` chooses, with what the store knows of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.labeling.embedder import Vectors
from secondlook.review.embedded_images import judged_boxes, stored_box
from secondlook.selection.choices import Measure
from secondlook.selection.strategies import JudgedPool
from secondlook.store import Store
from secondlook.store.embeddings import EmbeddedPlace
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook.store.uncertainties import OfResult
from secondlook_client.errors import InvalidInput
from secondlook_client.uncertainties import UncertaintyMethod
from secondlook_client.values import Outcome

PAGE = 200
"""Results read at a time."""


@dataclass(frozen=True)
class PoolImage:
    """An image of a run that may be chosen."""

    cursor: int
    """Of its result."""
    image_id: int
    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class RunPool:
    """The images of a run that nobody has reviewed."""

    images: Sequence[PoolImage]
    """(N,) in the order of the run."""
    pool: JudgedPool
    """The same images."""
    reviewed: int
    """Images that people have reviewed, in whole or in part."""
    without_vector: int = 0
    """Images that could not be embedded, and cannot be chosen."""


def read_pool(
    store: Store,
    run: Run,
    *,
    measure: Measure = Measure.ENTROPY,
    model: str = "",
    by_boxes: bool = False,
    left_out: Collection[str] = (),
) -> RunPool:
    """The images of a run, with their boxes as the run judged them.

    ``model`` (``name@digest``) is whose vectors to read; empty for none. ``by_boxes``: an image is
    the mean of its boxes, or what it is as a whole where it has none. Images of ``left_out``
    (SHA-256) are neither in the pool nor known, whether people reviewed them or not. A few hundred
    bytes of each image are kept, and its vector. Raises ``InvalidInput`` for a run without results,
    for one that was not measured by ``measure``, and where the store has no vector of ``model``.
    """
    method = check_measured(store, run, measure)
    reader = _Reader(run, store, model, by_boxes, frozenset(left_out))
    after = 0
    while page := store.results.page(run.id, after, PAGE):
        after = page[-1].cursor
        reader.add(page, measured_by(store, page, method))
    if not after:
        raise InvalidInput(f"run '{run.name}' has no result yet; label images first")
    return reader.pool()


def embedding_model(store: Store, run: Run) -> str:
    """The model (``name@digest``) by which most of the first images of a run were embedded.

    Raises ``InvalidInput`` where none was.
    """
    first = [one.image_id for one in store.results.page(run.id, 0, PAGE, reviewed=False)]
    counts = {
        one.name: len(store.embeddings.of_images(one.name, first))
        for one in store.embeddings.models()
    }
    best = max(counts, key=lambda name: counts[name], default="")
    if not counts.get(best):
        raise InvalidInput(
            f"no image of run '{run.name}' was embedded; embed them first: secondlook select "
            f"{run.name}"
        )
    return best


def check_measured(store: Store, run: Run, measure: Measure) -> UncertaintyMethod | None:
    """The method of ``secondlook uncertainty`` behind a measure, None where none is.

    Raises ``InvalidInput`` when the run was not measured by it.
    """
    if not measure.kept:
        return None
    method = UncertaintyMethod(measure.value)
    if method not in {one.method for one in store.uncertainties.methods(run.id)}:
        raise InvalidInput(
            f"the uncertainty of run '{run.name}' was not measured by {method}; measure it first: "
            f"secondlook uncertainty {run.name} --method {method}"
        )
    return method


def measured_by(
    store: Store, page: Sequence[Result], method: UncertaintyMethod | None
) -> dict[int, OfResult]:
    """What ``method`` found of results, by cursor; nothing without a method."""
    if method is None:
        return {}
    found = store.uncertainties.of_results([one.cursor for one in page], method)
    return {cursor: known[method] for cursor, known in found.items() if known}


class _Reader:
    """Collects the pool of a run page by page."""

    def __init__(
        self, run: Run, store: Store, model: str, by_boxes: bool, left_out: frozenset[str]
    ) -> None:
        self._run, self._store, self._left_out = run, store, left_out
        self._model, self._by_boxes = model, by_boxes
        self._places = {name: place for place, name in enumerate(run.ontology.names)}
        self._groups = {spec.name: spec.group or spec.name for spec in run.ontology.classes}
        self._judged: list[tuple[int, int, int, float, float, float, float]] = []
        self._vectors: list[Vectors] = []
        self._known: list[Vectors] = []
        self._objects = np.zeros(len(self._places))
        self._box = 0
        self.images: list[PoolImage] = []
        self.reviewed = self.without_vector = 0

    def add(self, page: Sequence[Result], measured: Mapping[int, OfResult]) -> None:
        """Add the results of a page, with what was measured of them, by cursor."""
        vectors = self._vectors_of(page) if self._model else {}
        for result in page:
            vector = vectors.get(result.cursor)
            if result.labelled.sha256 in self._left_out:
                continue
            if result.reviewed or result.labelled.complete:
                self.reviewed += 1
                self._known += [] if vector is None else [vector]
                for one in result.labelled.of(Outcome.ACCEPT):
                    self._objects[self._places[one.class_name]] += 1
            elif self._model and vector is None:
                self.without_vector += 1
            else:
                self._vectors += [] if vector is None else [vector]
                self._add_boxes(result, measured.get(result.cursor, {}))
                labelled = result.labelled
                name = labelled.name or labelled.sha256
                found = PoolImage(result.cursor, result.image_id, name, labelled.sha256)
                self.images.append(found)

    def _add_boxes(self, result: Result, measured: OfResult) -> None:
        """The judgements of an image that is the next of the pool; those that exclude each other
        together."""
        image = len(self.images)
        judged = [one for one in enumerate(result.labelled.judgements) if not one[1].whole_image]
        keys = [(stored_box(one.box), self._groups[one.class_name]) for _, one in judged]
        boxes = {key: at for at, key in enumerate(dict.fromkeys(keys), start=self._box)}
        rows = [
            (
                image,
                boxes[key],
                self._places[one.class_name],
                one.probability,
                one.score,
                np.nan if one.p_yes is None else one.p_yes,
                measured[place].value if place in measured else np.nan,
            )
            for (place, one), key in zip(judged, keys, strict=True)
        ]
        self._judged += sorted(rows, key=lambda row: row[1])
        self._box += len(boxes)

    def _vectors_of(self, page: Sequence[Result]) -> dict[int, Vectors]:
        """(D,) by cursor, of what has one."""
        ids = sorted({one.image_id for one in page})
        kept = self._store.embeddings.of_images(self._model, ids)
        if self._by_boxes:
            kept |= self._store.embeddings.of_images(self._model, ids, boxes=True)
        found = {}
        for result in page:
            boxes = judged_boxes(result) if self._by_boxes else ()
            places = [EmbeddedPlace(result.image_id, box) for box in boxes or (None,)]
            if all(place in kept for place in places):
                mean = np.mean([kept[place] for place in places], axis=0)
                found[result.cursor] = mean / np.linalg.norm(mean)
        return found

    def pool(self) -> RunPool:
        """What was read."""
        if self._model and not (self._vectors or self._known):
            raise InvalidInput(
                f"no image of run '{self._run.name}' was embedded by {self._model}; embed them "
                f"first: secondlook select {self._run.name}"
            )
        columns = [np.array(column) for column in zip(*self._judged, strict=True)]
        images, boxes, labels, *numbers = columns or [np.zeros(0)] * 7
        probabilities, scores, answers, measured = (one.astype(np.float64) for one in numbers)
        pool = JudgedPool(
            [one.name for one in self.images],
            self._run.ontology.names,
            images.astype(np.intp),
            boxes.astype(np.intp),
            labels.astype(np.intp),
            probabilities,
            scores,
            answers,
            measured,
            _stacked(self._vectors),
            _stacked(self._known),
            self._objects,
        )
        return RunPool(self.images, pool, self.reviewed, self.without_vector)


def _stacked(vectors: Sequence[Vectors]) -> Vectors | None:
    return np.stack(vectors).astype(np.float32) if vectors else None
