"""Checkpoints: where they lie, what they hash to, and what to say when they are not there."""

import hashlib
import os
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from secondlook.config.settings import ModelOptions
from secondlook.core.errors import BadSetting, NotFound

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched of a hub repository: no pickles, which can run code when they are loaded."""
WEIGHTS = "*.safetensors"
_HASHED = (WEIGHTS, "config.json", "preprocessor_config.json", "processor_config.json")


def folder_of(argument: str, *, remote_code: bool = False) -> Path:
    """The folder of a checkpoint: a local path, or a hub id that is fetched or already cached.

    ``remote_code`` fetches the repository's Python files too. Raises ``NotFound``, which says
    how to get it, when it cannot be had or holds no safetensors weights.
    """
    local = Path(argument).expanduser()
    folder = local if local.is_dir() else _from_hub(argument, remote_code)
    if not any(folder.glob(WEIGHTS)):
        raise NotFound(
            f"'{argument}' holds no safetensors weights; convert it with save_pretrained() of a "
            "recent transformers (pickled weights are not loaded, they can run code)"
        )
    if not (folder / "config.json").is_file():
        raise NotFound(f"'{argument}' holds no config.json; give the folder of a whole checkpoint")
    return folder


def tokenizer_folder_of(name: str) -> Path:
    """The folder of a hub repository's tokenizer, fetched or cached; ``NotFound`` otherwise."""
    return _snapshot(name, ["tokenizer*.json", "vocab.txt", "special_tokens_map.json"])


def digest_of(files: Iterable[Path]) -> str:
    """First 12 hex digits of the SHA-256 over the files' names and content, in order of name."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(path.name.encode())
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:12]


def digest_of_folder(folder: Path) -> str:
    """Digest of a checkpoint: its weights and the settings that change what they answer."""
    return digest_of(path for pattern in _HASHED for path in folder.glob(pattern))


def _from_hub(name: str, remote_code: bool) -> Path:
    return _snapshot(name, [*WANTED, "*.py"] if remote_code else list(WANTED))


def _snapshot(name: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError as cause:
        raise NotFound(
            f"no folder '{name}', and it is no hub id either (expected 'organisation/name'); "
            "check the path"
        ) from cause
    except Exception as cause:  # the hub's client raises its own, httpx's and OSError alike
        raise NotFound(
            f"checkpoint '{name}' is neither a folder here nor in the local cache, and the hub "
            f"did not give it ({type(cause).__name__}); where there is a network run "
            f"`hf download {name}` and give its folder, or try the embedded models with "
            "`--models demo`"
        ) from cause


# The part of a plug-in spec after its name: where a model lies, and a few settings of its own.
#
# ``transformers:IDEA-Research/grounding-dino-tiny?together=1&pad=32`` reads like a URL's query.


@dataclass(frozen=True)
class Prompting:
    """How a Grounding DINO is asked; the defaults give what its authors' own code gives."""

    together: int | None = None
    """Phrases that share a caption at most; None packs as many as fit. 1 finds most and costs a
    pass of the model for each phrase."""
    pad: int = 1
    """Images are padded to a multiple of this many pixels. 1 pads nothing: scores equal those
    of the original code, but only images of one resized shape share a batch."""


def split(argument: str, allowed: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """``where?key=value&…`` as ``where`` and its settings.

    Raises ``BadSetting`` for a setting that is not among ``allowed``, or is given twice.
    """
    where, _, query = argument.partition("?")
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed or key in found:
            raise BadSetting(
                f"setting '{key}' in '{argument}' is given twice or unknown; "
                f"known here: {', '.join(sorted(allowed)) or 'none'}"
            )
        found[key] = value
    return where, found


def prompting(settings: dict[str, str]) -> Prompting:
    """``together`` and ``pad`` out of the settings of a spec; ``BadSetting`` when out of range."""
    together = _whole(settings, "together", 1, 256)
    return Prompting(together, _whole(settings, "pad", 1, 4096) or 1)


def _whole(settings: dict[str, str], key: str, low: int, high: int) -> int | None:
    text = settings.get(key)
    if text is None:
        return None
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadSetting(f"expected {key} from {low} to {high}, got '{text}'")
    return int(text)


# Where a model runs and in which precision.

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PRIMITIVES = 128
"""Kernels that PyTorch's CPU library (oneDNN) keeps, one for each shape of each layer. With its
own 1,024 they held 160 MB more after 400 images of many shapes, and batches were no quicker."""


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


def place(options: ModelOptions) -> Placement:
    """The placement that the options ask for.

    ``auto`` takes the first CUDA device, then Apple's, then the CPU, and float32: scores then do
    not depend on the machine. Call it before a model first runs: it also bounds what the CPU
    library keeps, unless ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` is set, which is read only once.
    Raises ``BadSetting`` for a device that this machine lacks.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVES))
    name = _best_device() if options.device == "auto" else options.device
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        raise BadSetting(
            f"device '{options.device}' cannot be used here; this machine offers "
            f"{', '.join(_devices())} (or 'auto')"
        ) from cause
    return Placement(device, _DTYPES.get(options.dtype, torch.float32))


def _best_device() -> str:
    return _devices()[-1]


def _devices() -> list[str]:
    """What this machine has, best last."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return found
