"""The models on the device's disk, and which of them have worked.

    MODELS/3/…            the folder of version 3, as it was downloaded
    MODELS/state.json     which versions have worked, which one is being tried, which are refused

The state survives a kill at any moment. A model that crashes the process during its trial is
recognised by the count of trials that never ended.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from secondlook.core.files import remove, replacing
from secondlook_client.errors import BadSetting, SecondlookError
from secondlook_client.private_files import make_private_folder

log = logging.getLogger(__name__)

MAX_REFUSED = 64
"""Refused models remembered; the oldest are forgotten first."""
MAX_TRIES = 5
"""Starts of the agent that may end before a new model has run on a frame; then it is the cause."""
_MAX_STATE = 2**20
_VERSION = re.compile("[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class CacheState:
    """What ``state.json`` holds; versions are text, as JSON has it."""

    name: str = ""
    """The model's name on the server; another name starts with an empty cache."""
    good: Mapping[str, str] = field(default_factory=dict)
    """Digest by version, the last used at the end."""
    tries: Mapping[str, int] = field(default_factory=dict)
    """Trials that have not ended, by digest."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reason by digest."""


class ModelCache:
    """Models of one name. All methods that write are for one thread of one process."""

    def __init__(self, folder: Path, name: str, keep: int = 3) -> None:
        """``keep``: versions kept on the disk, at least 2, so that there is one to go back to."""
        if keep < 2:
            raise BadSetting(f"expected at least 2 versions to be kept, got {keep}")
        self._folder = folder
        self._keep = keep
        try:
            make_private_folder(folder)
        except OSError as cause:
            raise BadSetting(
                f"the folder for models '{folder}' cannot be created ({cause.strerror}); give "
                "another one with --models"
            ) from cause
        found = _read(folder / "state.json")
        if found.name != name:
            if found.name:
                log.warning("%s held models of '%s'; they are removed", folder, found.name)
                for version in found.good:
                    remove(self.path(int(version)))
            found = CacheState(name)
        self._state = found

    @property
    def refused(self) -> Mapping[str, str]:
        """Reason by digest."""
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

    def begin_trial(self, digest: str) -> bool:
        """Record that a model is about to be tried; False when it must not be.

        That is one that was refused, or during whose trials the agent has ended too often.
        """
        if digest in self._state.refused:
            return False
        tries = self._state.tries.get(digest, 0)
        if tries >= MAX_TRIES:
            self.refuse(digest, f"the agent ended {tries} times while it was tried")
            return False
        self._write(replace(self._state, tries={digest: tries + 1}))
        return True

    def end_trial(self, digest: str) -> None:
        """The model has run on a frame, or its trial was given up for another reason."""
        left = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, tries=left))

    def mark_good(self, version: int, digest: str) -> None:
        """The model works: the next start begins with it. Where it is new, old ones are removed."""
        if self.good[:1] == [(version, digest)]:
            return
        rest = {v: d for v, d in self._state.good.items() if v != str(version)}
        good = dict([*rest.items(), (str(version), digest)][-self._keep :])
        tries = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, good=good, tries=tries))
        self._remove_others()

    def refuse(self, digest: str, why: str) -> None:
        """Never try this model again."""
        refused = {**self._state.refused, digest: " ".join(why.split())[:300]}
        refused = dict(list(refused.items())[-MAX_REFUSED:])
        good = {v: d for v, d in self._state.good.items() if d != digest}
        tries = {d: count for d, count in self._state.tries.items() if d != digest}
        self._write(replace(self._state, good=good, tries=tries, refused=refused))
        self._remove_others()

    def discard(self, version: int) -> None:
        """Remove a damaged copy; the same model may be downloaded again."""
        good = {v: d for v, d in self._state.good.items() if v != str(version)}
        self._write(replace(self._state, good=good))
        remove(self.path(version))

    def _remove_others(self) -> None:
        """Remove all versions but the good ones, and incomplete downloads."""
        for path in self._folder.iterdir():
            version = path.name.lstrip(".").partition(".")[0]
            if version.isdecimal() and path.name not in self._state.good:
                try:
                    remove(path)
                except OSError as cause:
                    log.warning("%s cannot be removed: %s", path, cause.strerror)

    def _write(self, state: CacheState) -> None:
        """In memory in any case; on a full disk it is lost at the next start."""
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
            log.warning("the state of the models cannot be written: %s", cause)


def _read(path: Path) -> CacheState:
    """The state; an empty one where the file is missing or damaged, as by a power cut."""
    try:
        with path.open("rb") as file:
            plain: Any = json.loads(file.read(_MAX_STATE))
        good, refused, tries = plain["good"], plain["refused"], plain["tries"]
        texts = [plain["name"], *good.values(), *refused.values()]
        sound = all(isinstance(text, str) for text in texts)
        sound = sound and all(map(_VERSION.fullmatch, good))
        sound = sound and all(isinstance(count, int) for count in tries.values())
    except FileNotFoundError:
        return CacheState()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        sound = False
    if not sound:
        log.warning("%s is damaged; the models on this disk are downloaded again", path)
        return CacheState()
    return CacheState(plain["name"], good, tries, refused)
