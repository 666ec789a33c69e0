"""An export of a snapshot for the readers of other people: what it holds is known exactly."""

from collections.abc import Sequence
from pathlib import Path

from fakes import Row
from frozen import DOG_BOX, drawn, encoded, stored

from secondlook.core.types import Image
from secondlook.datasets.export import export
from secondlook.datasets.query import Query, SplitShare
from secondlook.datasets.snapshot import create_snapshot
from secondlook.store import open_store
from secondlook_client.values import EmptyReason

CAT_BOX = (41.0, 40.0, 70.0, 60.0)
IMAGES = 24


def exported(tmp_path: Path, *formats: str) -> Path:
    """A folder of 24 images of 72×64, in ``train`` and ``val``.

    All have a dog at ``DOG_BOX`` but those whose number divides by 4, which are empty; where it
    divides by 3 there may be a cat at ``CAT_BOX``, a region to ignore.
    """

    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        number = int(image.name.partition(".")[0])
        dog: list[Row] = [(DOG_BOX, {"dog": 0.8})] if number % 4 else []
        cat: list[Row] = [] if number % 3 else [(CAT_BOX, {"cat": 0.7})]
        return dog + cat

    images = {f"{n}.jpg": encoded(drawn(n)) for n in range(IMAGES)}
    with open_store(tmp_path / "data") as store:
        stored(store, "r", images, script=script, answers={"Dog?": 0.9, "Cat?": 0.5})
        halves = (SplitShare("train", 1), SplitShare("val", 1))
        create_snapshot(store, "s", Query(("r",), split=halves, empty=tuple(EmptyReason)))
        return export(store, "s", tmp_path / "out", formats)


def numbers(dogs: bool, cats: bool) -> set[int]:
    """The images that have just these."""
    return {n for n in range(IMAGES) if bool(n % 4) == dogs and (n % 3 == 0) == cats}
