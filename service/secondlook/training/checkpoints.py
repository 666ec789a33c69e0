"""The state of a training as files, so that one which was killed goes on where it was.

    OUT/checkpoints/last.pt    everything that the next step needs
    OUT/checkpoints/best.pt    the averaged weights that found most on the held-out images

Each is written atomically, and is read as plain tensors and values: no code can hide in it.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from secondlook.core.files import explain_write_errors, replacing
from secondlook.datasets.samples import TrainingSet
from secondlook.training.progress import CHECKPOINTS, TORCH, read_record
from secondlook.training.settings import RENAMED, TrainingSettings
from secondlook_client.errors import Damaged, OutputExists

FORMAT = 1
_WAY_OUT = "give another --out, or remove that folder to begin anew"


def identity_of(data: TrainingSet, settings: TrainingSettings) -> dict[str, Any]:
    """What two trainings have in common of which the one may go on with the other's state."""
    return {
        "format": FORMAT,
        "classes": list(data.classes),
        "digest": data.digest,
        "split": data.split,
        "settings": settings.shaping(),
    }


def check_identity(known: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """Raises ``OutputExists``, which says what differs, unless both are the same."""
    if isinstance(settings := known.get("settings"), Mapping):
        renamed = {RENAMED.get(name, name): value for name, value in settings.items()}
        known = {**known, "settings": renamed}
    if known == wanted:
        return
    if known.get("format") != wanted["format"]:
        raise OutputExists(f"{out} holds a training by another version; {_WAY_OUT}")
    if known.get("classes") != wanted["classes"]:
        before, now = (", ".join(map(str, of["classes"][:5])) for of in (known, wanted))
        raise OutputExists(
            f"{out} holds a training of other classes ({before}, not {now}); {_WAY_OUT}"
        )
    if known.get("digest") != wanted["digest"] or known.get("split") != wanted["split"]:
        raise OutputExists(
            f"{out} holds a training on other data ({str(known.get('digest'))[:12]}, not "
            f"{wanted['digest'][:12]}); {_WAY_OUT}"
        )
    theirs, ours = known.get("settings") or {}, wanted["settings"]
    other = [name for name in ours if theirs.get(name) != ours[name]]
    told = ", ".join(f"{name} {theirs.get(name)} instead of {ours[name]}" for name in other[:4])
    raise OutputExists(
        f"{out} holds a training with other settings ({told}); give the same ones to go on with "
        f"it, or {_WAY_OUT}"
    )


def has_ended(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this training left its weights in ``out``, and nothing to go on with.

    Raises ``OutputExists`` where the weights are those of another training.
    """
    record = read_record(out / TORCH)
    if record is None:
        return False
    check_identity(record.identity, identity, out)
    return not (out / CHECKPOINTS).exists()


class Checkpoints:
    """The state of one training below ``out``."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self._out = out
        self._identity = json.dumps(identity, sort_keys=True)
        self._folder = out / CHECKPOINTS

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state. A kill while writing leaves the one before."""
        self._write("last.pt", {**state, "identity": self._identity})

    def load(self) -> dict[str, Any] | None:
        """The state, on the CPU; None where there is none.

        Raises ``OutputExists`` for that of another training and ``Damaged`` for one that cannot be
        read.
        """
        state = self._read("last.pt")
        if state is not None:
            try:
                known = json.loads(state["identity"])
            except (KeyError, TypeError, ValueError):
                raise self._damaged("last.pt") from None
            check_identity(known, json.loads(self._identity), self._out)
        return state

    def save_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Replace the best weights."""
        self._write("best.pt", {name: value.detach().cpu() for name, value in weights.items()})

    def load_best(self) -> dict[str, torch.Tensor]:
        """The best weights. Raises ``Damaged`` when they are not there or cannot be read."""
        weights = self._read("best.pt")
        if weights is None:
            raise self._damaged("best.pt")
        return weights

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with explain_write_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / name) as part:
                torch.save(content, part)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._folder / name
        if not path.exists():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
            raise self._damaged(name) from e
        if not isinstance(content, dict):
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> Damaged:
        return Damaged(
            f"{self._folder / name} cannot be read as the state of a training; remove "
            f"{self._folder} to begin anew"
        )
