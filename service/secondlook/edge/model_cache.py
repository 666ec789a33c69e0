"""The models on the device's disk, and what became of them.

    MODELS/3/…            the folder of version 3, as it was downloaded
    MODELS/state.json     which versions have worked, which one is being tried, which are refused

The state outlives a kill at any moment. A model that ended the process itself while it was tried
is found out by the count of tries that never came to an end.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from secondlook.core.errors import BadSetting, SecondlookError
from secondlook.core.files import remove, replacing

log = logging.getLogger(__name__)

MAX_REFUSED = 64
"""Refused models remembered; the oldest are forgotten first."""
MAX_TRIES = 5
"""Lives of the agent that may end before a new model has seen a frame; then it is the cause."""
_MAX_STATE = 2**20


@dataclass(frozen=True)
class ShelfState:
    """What is remembered of models; versions are text, as JSON has it."""

    name: str = ""
    """The model's name on the server; another one starts anew."""
    good: Mapping[str, str] = field(default_factory=dict)
    """Digest by version, the last one that was taken into use at the end."""
    tries: Mapping[str, int] = field(default_factory=dict)
    """Tries without an end, by digest."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why, by digest."""


class Shelf:
    """Models of one name. All that writes is for one thread of one process."""

    def __init__(self, folder: Path, name: str, keep: int = 3) -> None:
        """``keep``: versions on the disk, at least 2, so that there is one to go back to."""
        if keep < 2:
            raise BadSetting(f"expected at least 2 versions to be kept, got {keep}")
        self._folder = folder
        self._keep = keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise BadSetting(
                f"the folder for models '{folder}' cannot be made ({cause.strerror}); give "
                "another one with --models"
            ) from cause
        found = _read(folder / "state.json")
        if found.name != name:
            if found.name:
                log.warning("%s held models of '%s'; they make room", folder, found.name)
                for version in found.good:
                    remove(self.path(int(version)))
            found = ShelfState(name)
        self._state = found

    @property
    def refused(self) -> Mapping[str, str]:
        """Why, by digest."""
        return self._state.refused

    @property
    def good(self) -> list[tuple[int, str]]:
        """(version, digest) of models that have worked and are on the disk, the last used first."""
        versions = [(int(version), digest) for version, digest in self._state.good.items()]
        return [found for found in reversed(versions) if self.path(found[0]).is_dir()]

    def path(self, version: int) -> Path:
        """The folder of a version, whether it is there or not."""
        return self._folder / str(version)

    def is_good(self, digest: str) -> bool:
        """Whether this model has worked here."""
        return digest in self._state.good.values()

    def tried(self, digest: str) -> bool:
        """Note that a model is about to be tried; False when it must not be.

        That is one that was refused, or that has been the end of the agent too often.
        """
        if digest in self._state.refused:
            return False
        tries = self._state.tries.get(digest, 0)
        if tries >= MAX_TRIES:
            self.refuse(digest, f"the agent ended {tries} times while it was tried")
            return False
        self._write(replace(self._state, tries={digest: tries + 1}))
        return True

    def untried(self, digest: str) -> None:
        """The model has lived through a frame, or was given up for a reason that is not its own."""
        left = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, tries=left))

    def keep(self, version: int, digest: str) -> None:
        """The model works: it is the one to begin with. Where it is new, older ones make room."""
        if self.good[:1] == [(version, digest)]:
            return
        rest = {v: d for v, d in self._state.good.items() if v != str(version)}
        kept = dict([*rest.items(), (str(version), digest)][-self._keep :])
        tries = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, good=kept, tries=tries))
        self._make_room()

    def refuse(self, digest: str, why: str) -> None:
        """Never try this model again."""
        refused = {**self._state.refused, digest: " ".join(why.split())[:300]}
        refused = dict(list(refused.items())[-MAX_REFUSED:])
        good = {v: d for v, d in self._state.good.items() if d != digest}
        tries = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, good=good, tries=tries, refused=refused))
        self._make_room()

    def discard(self, version: int) -> None:
        """Remove what the disk has damaged; the same model may be fetched again."""
        good = {v: d for v, d in self._state.good.items() if v != str(version)}
        self._write(replace(self._state, good=good))
        remove(self.path(version))

    def _make_room(self) -> None:
        """Remove all versions but the good ones, and what is left of broken downloads."""
        for path in self._folder.iterdir():
            version = path.name.lstrip(".").partition(".")[0]
            if version.isdecimal() and path.name not in self._state.good:
                try:
                    remove(path)
                except OSError as cause:
                    log.warning("%s cannot be removed: %s", path, cause.strerror)

    def _write(self, state: ShelfState) -> None:
        """In memory in any case; a full disk may forget it at the next start."""
        self._state = state
        try:
            with (
                replacing(self._folder / "state.json") as part,
                part.open("w", encoding="utf-8") as file,
            ):
                file.write(json.dumps(asdict(state), indent=1))
                file.flush()
                os.fsync(file.fileno())  # a power cut leaves the old state or the new one
        except (OSError, SecondlookError) as cause:
            log.warning("what became of the models is not remembered: %s", cause)


def _read(path: Path) -> ShelfState:
    """The state; an empty one where the file is missing or a power cut has left nonsense."""
    try:
        with path.open("rb") as file:
            plain: Any = json.loads(file.read(_MAX_STATE))
        good, refused, tries = plain["good"], plain["refused"], plain["tries"]
        texts = [plain["name"], *good.values(), *refused.values()]
        sound = all(isinstance(text, str) for text in texts)
        sound = sound and all(version.isdecimal() for version in good)
        sound = sound and all(isinstance(count, int) for count in tries.values())
    except FileNotFoundError:
        return ShelfState()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        sound = False
    if not sound:
        log.warning("%s is damaged; the models on this disk are fetched again", path)
        return ShelfState()
    return ShelfState(plain["name"], good, tries, refused)
