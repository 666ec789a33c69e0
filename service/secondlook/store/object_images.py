"""Images in a bucket, found and read as those of a folder are.

What is left out, in which order images come and how an image is known is the same as in
``core.image_folder``: a prefix is a folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions

from secondlook.core.files import is_below
from secondlook.core.image_folder import (
    IMAGE_SUFFIXES,
    OUTPUT_TAG,
    UNREADABLE_FORMATS,
    VIDEO_SUFFIXES,
    ImageFile,
    ImageSelection,
    LeftOut,
    is_hidden,
)
from secondlook.store.object_blobs import MISSING, open_objects, translated_errors
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class BucketSelection(ImageSelection):
    """The images of a prefix; ``root`` is the URL without its query, as a path."""

    url: str = ""
    """``s3://bucket/prefix?endpoint=…``, as ``--blob-url`` has it."""
    _objects: Any = field(default=None, compare=False, repr=False)

    @property
    def are_files(self) -> bool:
        """See ``ImageSelection``."""
        return False

    def walk(self, left_out: LeftOut | None = None) -> Iterator[ImageFile]:
        """See ``ImageSelection``; holds what lies directly in one chain of prefixes.

        Raises ``StoreUnavailable``.
        """
        yield from self._walk_prefix("", LeftOut() if left_out is None else left_out)

    def read(self, image: ImageFile, max_bytes: int) -> bytes:
        """The bytes of an image. Raises ``BadImage``, ``ImageTooLarge`` and
        ``StoreUnavailable``."""
        if image.refusal:
            raise BadImage(image.refusal)
        with translated_errors():
            try:
                found = obstore.get(self._objects, image.name)
                if found.meta["size"] > max_bytes:
                    raise ImageTooLarge(
                        f"the object has {found.meta['size']:,} bytes; at most {max_bytes:,} are "
                        "allowed (--max-image-bytes)"
                    )
                return bytes(found.bytes())
            except MISSING:
                raise BadImage("the object is gone") from None

    def _walk_prefix(self, prefix: str, left_out: LeftOut) -> Iterator[ImageFile]:
        # A stack of its own: prefixes nest deeper than calls may.
        waiting = [iter(self._listed(prefix, left_out))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif isinstance(entry, str):
                waiting.append(iter(self._listed(entry, left_out)))
            elif image := self._image(entry, left_out):
                yield image

    def _listed(self, prefix: str, left_out: LeftOut) -> list[Any]:
        """Prefixes and objects directly in ``prefix``, sorted by name, without hidden ones."""
        with translated_errors():
            try:
                found = obstore.list_with_delimiter(self._objects, prefix or None)
            except exceptions.InvalidPathError:
                raise InvalidInput(
                    f"'{self.root / prefix}' has a key that is no path, with // or .. in it; name "
                    "the prefixes beside it, or rename that object"
                ) from None
        objects = {entry["path"]: entry for entry in found["objects"]}
        if any(_last(path) == OUTPUT_TAG for path in objects):
            left_out.output(Path(prefix or self.root))
            return []
        entries: dict[str, Any] = {**objects, **{one: one for one in found["common_prefixes"]}}
        for path in [path for path in entries if is_hidden(_last(path))]:
            left_out.hidden(Path(path))
            del entries[path]
        return [entries[path] for path in sorted(entries, key=_last)]

    def _image(self, entry: Any, left_out: LeftOut) -> ImageFile | None:
        name = entry["path"]
        suffix = Path(name).suffix.lower()
        changed_ns = (entry["last_modified"] - EPOCH) // timedelta(microseconds=1) * 1000
        image = ImageFile(name, self.root / name, entry["size"], changed_ns, root=self.root)
        if form := UNREADABLE_FORMATS.get(suffix):
            return _refused(image, f"{form} is not read; convert it to JPEG")
        if suffix in VIDEO_SUFFIXES:
            left_out.video(image.path)
        if suffix not in IMAGE_SUFFIXES:
            return None
        return image if is_below(name) else _refused(image, "its key is no path that a file has")


def select_objects(url: str) -> BucketSelection:
    """The images beneath ``url``. Nothing is connected yet. Raises ``BadSetting``."""
    root = Path(urlsplit(url)._replace(query="").geturl())
    return BucketSelection(root, (), url=url, _objects=open_objects(url))


def _refused(image: ImageFile, why: str) -> ImageFile:
    return ImageFile(image.name, image.path, 0, 0, refusal=why)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
