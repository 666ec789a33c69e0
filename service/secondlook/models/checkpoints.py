"""Checkpoints: where they lie, what they hash to, and what to say when they are not there."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from secondlook.errors import NotFound

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
