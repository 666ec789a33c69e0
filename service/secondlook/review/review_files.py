"""Reviews as files: JSON Lines with everything, or the boxes that they come to as COCO.

A line of ``.jsonl`` is one ``Review.to_dict``, also of those that were taken back and of those that
take one back. A COCO file has the boxes that people found right or drew as ``annotations``, those
of which they are unsure with ``iscrowd`` 1, and those that they found wrong in a list of their own,
``hard_negatives``, which readers of COCO ignore; ``attributes`` say who, when and why. Masks of
people are in both: ``mask`` of a line, ``segmentation`` (run-length code) of an annotation.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from secondlook.core.boxes import to_xywh
from secondlook.core.files import replacing
from secondlook.datasets.label_fields import CorrectedImage
from secondlook.datasets.readers.corrected import CorrectedSet
from secondlook.evaluation.matching import MIN_IOU
from secondlook.labeling.applied_reviews import is_complete, reviewed_boxes
from secondlook.review.corrections import Corrector, ShownImage
from secondlook.review.oracle import Oracle
from secondlook.store import Store
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.values import (
    Judgement,
    LabelResult,
    Outcome,
    Review,
)

MAX_LINE = 1 << 22
"""Bytes of one line; a review of the longest texts has 60,000, and one of the largest mask two
million."""
MAX_COCO = 1_000_000
"""Reviews in one COCO file, which are all in memory."""
PAGE = 200
"""Results read at a time."""
ImageNames = Callable[[Collection[str]], Mapping[str, tuple[str, int, int]]]
"""(name, width, height) of the images that are known, by sha256."""


def write_reviews(
    path: Path, reviews: Iterable[Review], images: ImageNames = lambda sha256s: {}
) -> int:
    """Write reviews, oldest first, to a ``.jsonl`` or a COCO ``.json`` file; how many.

    ``images`` names the images of a COCO file; where it does not, their sha256 does. Raises
    ``InvalidInput`` for another kind of file and for more than ``MAX_COCO`` reviews as COCO.
    """
    if path.suffix == ".json":
        return _write_coco(path, reviews, images)
    if path.suffix != ".jsonl":
        raise InvalidInput(f"{path}: give a name that ends with .jsonl or, for COCO, .json")
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for review in reviews:
            file.write(json.dumps(review.to_dict()) + "\n")
            count += 1
    return count


def read_reviews(path: Path, person: str = "") -> Iterator[Review]:
    """The reviews of a ``.jsonl`` file, line by line, for ``Store.reviews.add_from``.

    One without a person is by ``person``; one without a time is of the file's time, so that a file
    that is read twice is kept once. Raises ``NotFound``, and ``InvalidInput`` naming the line.
    """
    try:
        file, created_at = path.open("rb"), path.stat().st_mtime
    except OSError as failure:
        raise NotFound(f"{path} cannot be read: {failure.strerror}") from failure
    with file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InvalidInput(f"{path}, line {number}: longer than {MAX_LINE:,} bytes")
            if line.strip():
                yield _read_line(f"{path}, line {number}", line, person, created_at)


def import_annotations(
    store: Store, run: str, path: Path, person: str, *, outlines: bool = False
) -> tuple[int, int]:
    """Keep what a COCO file says of the labels of a run; how many reviews (were new, were known).

    See ``annotation_reviews``. Raises also ``NotFound`` for the run.
    """
    about = store.results.run(run)
    said = annotation_reviews(
        path, _results(store, about.id), about.ontology.names, person, outlines=outlines
    )
    return store.reviews.add_from(said)


def import_corrections(
    store: Store, run: str, corrected: CorrectedSet, person: str, *, changes_only: bool = False
) -> tuple[int, int]:
    """Keep what people said in another program of the labels of a run; how many reviews (were new,
    were known).

    Those that the images were exported with come first; what is said then differs from how the run
    stands with them. Its time is that of the annotation, or of the file. Raises ``NotFound`` for
    the run, and ``InvalidInput`` where the run has none of the images.
    """
    about, moment = store.results.run(run), corrected.path.stat().st_mtime
    cursors = _cursors(store, about.id, corrected.images)
    if corrected.images and not cursors:
        raise InvalidInput(
            f"{corrected.path} has none of the run's images; it must name them as the run does"
        )
    exported = (review for at in cursors for review in corrected.images[at].reviews)
    added, known = store.reviews.add_from(exported)
    for at, cursor in cursors.items():
        image = corrected.images[at]
        if image.boxes is None:
            continue
        who = Corrector(
            image.person or person,
            frozenset(corrected.classes),
            frozenset(about.ontology.names),
            changes_only,
        )
        result = store.results.some(about, [cursor])[cursor]
        stands = result.labelled.sha256, result.labelled.judgements, result.reviewed, cursor
        said = who.reviews(ShownImage(*stands), image.boxes, image.seconds)
        when = image.created_at or moment
        new, old = store.reviews.add_from(Review(**vars(one), created_at=when) for one in said)
        added, known = added + new, known + old
    return added, known


def _cursors(store: Store, run_id: int, images: Sequence[CorrectedImage]) -> dict[int, int]:
    """By the place of an image in a file, the cursor of its result: by hash, by name, or by the
    name of its file where that is the only one."""
    wanted = {one.sha256 for one in images} | {one.name for one in images}
    files = {PurePosixPath(one.name).name for one in images}
    found: dict[str, int] = {}
    by_file: dict[str, set[int]] = {}
    for result, cursor in _named_results(store, run_id):
        found |= {key: cursor for key in (result.name, result.sha256) if key in wanted}
        file = PurePosixPath(result.name).name
        if file in files:
            by_file.setdefault(file, set()).add(cursor)
    places = {}
    for at, image in enumerate(images):
        known = found.get(image.sha256) or found.get(image.name)
        of_file = by_file.get(PurePosixPath(image.name).name, set())
        if known is None and not image.sha256 and len(of_file) == 1:
            (known,) = of_file
        if known is not None:
            places[at] = known
    return places


def _named_results(store: Store, run_id: int) -> Iterator[tuple[LabelResult, int]]:
    after = 0
    while page := store.results.page(run_id, after, PAGE, reviewed=False):
        after = page[-1].cursor
        yield from ((one.labelled.result, one.cursor) for one in page)


def annotation_reviews(
    path: Path,
    results: Iterable[tuple[LabelResult, LabelResult]],
    classes: Collection[str],
    person: str,
    *,
    outlines: bool = False,
    min_iou: float = MIN_IOU,
) -> Iterator[Review]:
    """What a COCO file of true or corrected annotations says of labels, by matching boxes.

    ``results`` are as the run of these ``classes`` decided them, and with reviews. An accepted or
    unsure box of the run is right or wrong; an annotation that no such box of either marks is a
    missing object, with its mask. With ``outlines`` a box that is right is called badly outlined,
    with the outline of the file, where their IoU is below 0.9, and gets the file's mask. Images and
    classes that the file does not list are left out; its time is the reviews', so that a file that
    is read twice is kept once.
    Raises ``NotFound``, and ``InvalidInput`` also where the file lists none of the images.
    """
    oracle, created_at = Oracle.from_truth(path, min_iou, masks=True), path.stat().st_mtime
    known = False
    for result, current in results:
        if result.name in oracle.truth:
            known = True
            for review in oracle.review(result, classes, current=current, outlines=outlines):
                yield Review(**{**vars(review), "person": person}, created_at=created_at)
    if not known:
        raise InvalidInput(
            f"{path} lists none of the run's images; it must name them as the run does"
        )


def _read_line(where: str, line: bytes, person: str, created_at: float) -> Review:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError) as failure:
        raise InvalidInput(f"{where}: not JSON ({failure})") from None
    if not isinstance(plain, dict):
        raise InvalidInput(f"{where}: a line is one review, {{...}}, not {type(plain).__name__}")
    try:
        return Review.from_dict({"person": person, "created_at": created_at} | plain)
    except InvalidInput as failure:
        raise InvalidInput(f"{where}: {failure}") from None


def _results(store: Store, run_id: int) -> Iterator[tuple[LabelResult, LabelResult]]:
    """Of each image what the run decided, and the same with reviews."""
    after = 0
    while page := store.results.page(run_id, after, PAGE, reviewed=False):
        reviewed = {one.cursor: one for one in store.results.page(run_id, after, PAGE)}
        after = page[-1].cursor
        for one in page:
            yield one.labelled.result, reviewed.get(one.cursor, one).labelled.result


def _write_coco(path: Path, reviews: Iterable[Review], images: ImageNames) -> int:
    of_images: dict[str, list[Review]] = {}
    count = 0
    for review in reviews:
        of_images.setdefault(review.image, []).append(review)
        count += 1
        if count > MAX_COCO:
            raise InvalidInput(f"more than {MAX_COCO:,} reviews; write them as .jsonl")
    boxes = {image: reviewed_boxes(said) for image, said in of_images.items()}
    classes = sorted({box.class_name for found in boxes.values() for box, _ in found})
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    names = images([*of_images])
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        info = {"description": "reviews of people"}
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        file.write(json.dumps({"info": info, "categories": categories})[:-1])
        _write_list(file, "images", _images(of_images, names))
        for key, wrong in (("annotations", False), ("hard_negatives", True)):
            _write_list(file, key, _annotations(boxes, numbers, wrong))
        file.write("}\n")
    return count


def _write_list(file: TextIO, key: str, entries: Iterable[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for place, entry in enumerate(entries):
        file.write(("," if place else "") + "\n" + json.dumps(entry))
    file.write("\n]")


def _images(
    of_images: Mapping[str, list[Review]], names: Mapping[str, tuple[str, int, int]]
) -> Iterator[dict[str, Any]]:
    for number, (sha256, said) in enumerate(of_images.items(), start=1):
        name, width, height = names.get(sha256, (sha256, 0, 0))
        size = {"width": width, "height": height} if width and height else {}
        about = {"sha256": sha256, "complete": is_complete(said)}
        yield {"id": number, "file_name": name, **size, **about}


def _annotations(
    boxes: Mapping[str, list[tuple[Judgement, Review]]], numbers: Mapping[str, int], wrong: bool
) -> Iterator[dict[str, Any]]:
    """Those that people found wrong, or all others."""
    number = 0
    for image, found in enumerate(boxes.values(), start=1):
        for box, review in found:
            if (box.outcome is Outcome.REJECT) == wrong:
                number += 1
                x, y, width, height = (round(value, 2) for value in to_xywh(box.box))
                mask = {"segmentation": box.mask.to_coco()} if box.mask else {}
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": numbers[box.class_name],
                    "bbox": [x, y, width, height],
                    "area": box.mask.area if box.mask else round(width * height, 2),
                    **mask,
                    "iscrowd": int(box.outcome is Outcome.UNSURE),
                    "attributes": {
                        "answer": review.answer.value,
                        "reason": review.reason.value if review.reason else "",
                        "person": review.person,
                        "note": review.note,
                        "seconds": review.seconds,
                        "created_at": review.created_at,
                    },
                }
