"""What a run leaves behind once its pictures are labelled."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from secondlook import gallery
from secondlook.atomic import replacing
from secondlook.errors import BadImage
from secondlook.formats import WRITERS, Labels
from secondlook.images import ImageLimits, decode
from secondlook.labels import Pixels
from secondlook.runs.folder import Source, read
from secondlook.runs.out_folder import FAILED, GALLERY
from secondlook.runs.sending import Refused
from secondlook.totals import Totals


@dataclass(frozen=True)
class Written:
    """The figures of the whole run and the files they are in."""

    totals: Totals
    failed: int
    """Pictures without a result; ``failed.jsonl`` has the reasons."""
    paths: tuple[Path, ...]


def write_outputs(
    out: Path,
    labels: Labels,
    refused: Iterable[Refused],
    *,
    formats: Sequence[str],
    shown: int,
    limits: ImageLimits,
) -> Written:
    """Write the formats, the gallery (at most ``shown`` pictures; 0: none) and ``failed.jsonl``.

    Everything is streamed, so memory does not grow with the run. Raises ``StorageFull``; nothing
    is lost then, and the same command writes the rest later.
    """
    failed = _write_failures(out / FAILED, refused)
    totals = Totals.of(result for _, result in labels.results())
    paths = [WRITERS[name](labels, out) for name in formats]
    if shown:
        best = gallery.pick(labels.results(), shown)
        title = ", ".join(labels.classes[:4])
        if len(labels.classes) > 4:
            title += f" and {len(labels.classes) - 4} more"
        load = loader(labels.root, limits)
        paths.append(gallery.write(out / GALLERY, title, totals, best, load))
    return Written(totals, failed, tuple(paths))


def _write_failures(path: Path, refused: Iterable[Refused]) -> int:
    """One line of JSON a picture; how many there are."""
    count = 0
    with replacing(path) as part, part.open("wb") as file:
        for picture in refused:
            file.write(json.dumps(asdict(picture)).encode("ascii") + b"\n")
            count += 1
    return count


def loader(root: Path, limits: ImageLimits) -> Callable[[str], Pixels]:
    """Gives the upright pixels of a picture by its name; raises ``BadImage`` when it has gone."""

    def load(name: str) -> Pixels:
        path = root / name
        try:
            found = path.stat()
        except OSError as failure:
            raise BadImage(f"the picture is not there any more ({failure.strerror})") from None
        source = Source(name, path, found.st_size, found.st_mtime_ns)
        return decode(read(source, limits.max_bytes), name, limits).pixels

    return load
