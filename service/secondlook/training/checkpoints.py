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
from secondlook.training.finished import check_identity
from secondlook.training.progress import CHECKPOINTS
from secondlook_client.errors import Damaged


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
