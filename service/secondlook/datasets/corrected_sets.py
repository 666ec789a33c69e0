"""Files and folders of other programs in which people corrected labels, told apart by content."""

import codecs
from pathlib import Path

from secondlook.datasets.readers.corrected import CorrectedSet
from secondlook.datasets.readers.cvat import find_cvat, read_cvat
from secondlook.datasets.readers.fiftyone import find_fiftyone, read_fiftyone
from secondlook.datasets.readers.label_studio import read_label_studio

_HEAD = 1 << 10


def open_corrected(path: Path) -> tuple[CorrectedSet, ...]:
    """What Label Studio (a JSON export), CVAT (an XML file, or a folder with some) or FiftyOne (a
    folder) have at ``path``; () for anything else.

    Raises ``NotFound`` and ``InvalidInput``, which name the file and the entry.
    """
    if path.is_dir():
        if find_fiftyone(path):
            return (read_fiftyone(path),)
        return tuple(map(read_cvat, find_cvat(path)))
    if path.suffix.lower() == ".xml":
        return (read_cvat(path),)
    return (read_label_studio(path),) if _is_list(path) else ()


def _is_list(path: Path) -> bool:
    """Whether a file of JSON is a list, as Label Studio writes its tasks."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return path.suffix == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
