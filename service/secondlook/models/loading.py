"""Loading a checkpoint: where its files are, what they hash to, and on which device it runs."""

import hashlib
import os
import pickle
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from secondlook.config.settings import ModelSettings
from secondlook.models.hub import fetch_snapshot, split_revision
from secondlook_client.errors import BadSetting, NotFound

FETCHED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched of a hub repository: no pickles, which can run code when they are loaded."""
WEIGHTS = "*.safetensors"
_HASHED = (WEIGHTS, "config.json", "preprocessor_config.json", "processor_config.json")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MAX_CACHED_KERNELS = 128
"""Kernels that PyTorch's CPU library (oneDNN) keeps, one for each shape of each layer. With its
own 1,024 they held 160 MB more after 400 images of many shapes, and batches were no faster."""


def checkpoint_folder(argument: str, *, remote_code: bool = False) -> Path:
    """The folder of a checkpoint: a local path, or a hub id that is fetched or already cached.

    ``remote_code`` fetches the repository's Python files too. Raises what ``fetch_snapshot``
    raises, and ``NotFound`` when it holds no safetensors weights.
    """
    local = Path(argument).expanduser()
    patterns = [*FETCHED_FILES, "*.py"] if remote_code else FETCHED_FILES
    folder = local if local.is_dir() else fetch_snapshot(argument, patterns)
    if not any(folder.glob(WEIGHTS)):
        raise NotFound(
            f"'{argument}' holds no safetensors weights; convert it with save_pretrained() of a "
            "recent transformers (pickled weights are not loaded, they can run code)"
        )
    if not (folder / "config.json").is_file():
        raise NotFound(f"'{argument}' holds no config.json; give the folder of a whole checkpoint")
    return folder


def read_pickled_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The weights of a ``.pth`` file, plain or under ``model``; nothing in it is executed.

    Raises ``NotFound`` for a file that is damaged or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as cause:
        raise NotFound(
            f"'{path.name}' is damaged or holds more than weights, which is not loaded because "
            'it can run code; save it again as torch.save({"model": model.state_dict()}, …)'
        ) from cause
    found = content.get("model", content) if isinstance(content, Mapping) else None
    weights: Mapping[str, torch.Tensor] = found if isinstance(found, Mapping) else {}
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise NotFound(f"'{path.name}' holds no weights of a model under 'model'")
    return weights


def tokenizer_folder(name: str) -> Path:
    """The folder of a hub repository's tokenizer, fetched or cached; ``NotFound`` otherwise."""
    return fetch_snapshot(name, ["tokenizer*.json", "vocab.txt", "special_tokens_map.json"])


def digest_of(files: Iterable[Path]) -> str:
    """First 12 hex digits of the SHA-256 over the files' names and content, in order of name."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(path.name.encode())
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:12]


def digest_of_folder(folder: Path) -> str:
    """Digest of a checkpoint: its weights and the configuration that changes its answers."""
    return digest_of(path for pattern in _HASHED for path in folder.glob(pattern))


def short_name(argument: str) -> str:
    """What people call a checkpoint: the last part of its path or hub id, without a revision."""
    local = Path(argument).expanduser().is_dir()
    whole = argument if local else split_revision(argument)[0]
    return whole.rstrip("/").rpartition("/")[2] or whole


@dataclass(frozen=True)
class Placement:
    """A device and the type in which matrix products are computed there."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for half types (weights stay float32); nothing for float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose_placement(options: ModelSettings) -> Placement:
    """The placement that the settings ask for.

    ``auto`` takes the first CUDA device, then Apple's, then the CPU, and float32: scores then do
    not depend on the machine. Call it before a model first runs: it also bounds what the CPU
    library keeps, unless ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` is set, which is read only once.
    Raises ``BadSetting`` for a device that this machine lacks.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MAX_CACHED_KERNELS))
    name = _devices()[-1] if options.device == "auto" else options.device
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        raise BadSetting(
            f"device '{options.device}' cannot be used here; this machine offers "
            f"{', '.join(_devices())} (or 'auto')"
        ) from cause
    return Placement(device, _DTYPES.get(options.dtype, torch.float32))


def _devices() -> list[str]:
    """What this machine has, best last."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return found
