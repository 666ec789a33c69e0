"""Checkpoints from a Hugging Face hub: told before they are fetched, resumed, cached, safe.

``huggingface_hub`` downloads, shows progress and keeps everything in its cache (``HF_HOME``). Here
is what it leaves to the caller: what is about to be fetched and under which licence, whether the
disk has room, to go on with a large file after a kill, and what to do when the hub gives nothing.
"""

import errno
import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils import tqdm as hub_progress

from secondlook.config.terminal import echo
from secondlook_client.errors import NotFound, NotReady, SecondlookError, StorageFull, Unavailable

SPARE_BYTES = 200 * 10**6
"""Room on the disk that a download leaves."""
LARGE_BYTES = 20 * 10**6
"""Size of a file from which it is worth going on where a killed download stood: the hub's client
does so within one process only."""
NEEDED = ("*.json", "*.safetensors", "*.txt", "*.jinja")
"""What to bring by hand of a repository that cannot be fetched here."""
_LICENCE = "license:"
_SHA256 = re.compile(r"[0-9a-f]{64}")
"""The tag of a large file is its hash."""


class _NoProgress(hub_progress):
    """For questions to the hub, and what is cached: nothing that a person waits for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def split_revision(name: str) -> tuple[str, str | None]:
    """``ORG/NAME[@REVISION]`` as repository and revision; None is the hub's main one."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def fetch_snapshot(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository ``ORG/NAME[@REVISION]``, with its files that fit ``patterns``.

    Says on stderr what is to be fetched, if anything is. Raises ``NotFound``, ``NotReady`` for a
    repository whose terms must be accepted, ``StorageFull`` and ``Unavailable``, each with the way
    out.
    """
    repository, revision = split_revision(name)
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    try:
        missing = _missing(repository, wanted)
        if missing:
            _announce(repository, revision, missing)
            for file in missing:
                if (file.file_size or 0) >= LARGE_BYTES:
                    _fetch_large(repository, file.filename, file.commit_hash)
        progress = hub_progress if missing else _NoProgress
        offline = missing is None
        folder = Path(
            snapshot_download(repository, local_files_only=offline, tqdm_class=progress, **wanted)
        )
        if missing:
            echo(f"fetched {repository}", err=True)
        return folder
    except SecondlookError:
        raise
    except KeyboardInterrupt:
        echo("what has arrived is kept; the same command fetches the rest", err=True)
        raise
    except Exception as cause:  # the hub's client raises its own, httpx's and OSError alike
        raise _explained(name, repository, cause) from cause


def _missing(repository: str, wanted: dict[str, Any]) -> list[Any] | None:
    """The files that the cache lacks; None where the hub does not say and the cache must do."""
    try:
        files = snapshot_download(repository, dry_run=True, tqdm_class=_NoProgress, **wanted)
    except HFValidationError:
        raise
    except Exception as cause:
        try:
            snapshot_download(repository, local_files_only=True, **wanted)
        except Exception:
            # Why the hub said nothing helps more than that the cache holds nothing.
            raise _reason(cause) from cause
        return None
    return [file for file in files if file.will_download]


def _reason(failure: BaseException) -> BaseException:
    """What the hub's client hides behind an error that says only which step failed."""
    while failure.__cause__ is not None and not isinstance(failure, HfHubHTTPError):
        failure = failure.__cause__
    return failure


def _announce(repository: str, revision: str | None, missing: Sequence[Any]) -> None:
    size = sum(file.file_size or 0 for file in missing)
    cache = Path(constants.HF_HUB_CACHE)
    tags = HfApi().model_info(repository, revision=revision).tags or []
    licence = next((t.removeprefix(_LICENCE) for t in tags if t.startswith(_LICENCE)), "not stated")
    echo(
        f"fetching {repository} ({revision or 'main'}, {missing[0].commit_hash[:12]}) from "
        f"{constants.ENDPOINT}: {_megabytes(size)} in {len(missing)} files, licence {licence}, "
        f"into {cache}",
        err=True,
    )
    exists = next(path for path in (cache, *cache.parents) if path.is_dir())
    free = shutil.disk_usage(exists).free
    if free < size + SPARE_BYTES:
        raise _full(repository, f"{_megabytes(size)} are needed, and {_megabytes(free)} are free")


def _fetch_large(repository: str, name: str, commit: str) -> None:
    """Put one file into the hub client's cache, where it finds and links it by its hash."""
    url = hf_hub_url(repository, name, revision=commit)
    about = get_hf_file_metadata(url)
    if not _SHA256.fullmatch(about.etag or ""):
        return  # the client fetches it with the small ones
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / str(about.etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.part")
    ours = urlsplit(about.location).netloc == urlsplit(url).netloc  # others get no token
    with WeakFileLock(part.with_suffix(".lock")):
        if blob.exists():
            return
        part.touch()
        with part.open("r+b") as stream:
            have = stream.seek(0, 2)
            if have:
                echo(f"going on with {name} at {_megabytes(have)}", err=True)
            http_get(
                about.location,
                stream,
                resume_size=have,
                headers=build_hf_headers() if ours else {},
                expected_size=about.size,
                displayed_filename=name,
            )
        with part.open("rb") as stream:
            sound = hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
        if not sound:
            part.unlink()
            raise Unavailable(f"{name} of {repository} arrived damaged; run the same command again")
        part.replace(blob)


def _megabytes(size: int) -> str:
    return f"{size / 10**6:,.0f} MB" if size >= 10**6 else f"{size / 10**6:.2f} MB"


def _full(repository: str, why: str) -> StorageFull:
    return StorageFull(
        f"there is no room for {repository} in {constants.HF_HUB_CACHE}: {why}; free some, or name "
        "a folder on another disk in HF_HOME. What has arrived is kept"
    )


def _explained(name: str, repository: str, cause: BaseException) -> SecondlookError:
    """What went wrong, and what to do about it."""
    files = " ".join(f'--include "{pattern}"' for pattern in NEEDED)
    elsewhere = (
        f"Where there is a network, run `hf download {repository} {files} --local-dir FOLDER`, "
        "copy that folder here and give it in place of the name (--proposer FOLDER, --verifier "
        "FOLDER); or try the embedded models with `--models demo`"
    )
    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(cause, HFValidationError):
        return NotFound(
            f"no folder '{name}', and it is no hub id either (expected 'organisation/name'); "
            "check the path"
        )
    if isinstance(cause, GatedRepoError):
        return NotReady(
            f"'{repository}' asks for its terms to be accepted: do so at {page}, then run "
            "`hf auth login` here and try again"
        )
    if isinstance(cause, RevisionNotFoundError):
        return NotFound(f"'{repository}' has no revision '{name.partition('@')[2]}'; see {page}")
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
    if isinstance(cause, RepositoryNotFoundError) or status in (401, 403):
        return NotFound(
            f"the hub has no checkpoint '{repository}' that may be read without a login; check "
            f"the name at {page}, or run `hf auth login` if it is private"
        )
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(repository, "the disk is full")
    if isinstance(cause, OfflineModeIsEnabled):
        return NotFound(
            f"checkpoint '{name}' is neither a folder here nor in the cache "
            f"{constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it. {elsewhere}"
        )
    if status == 429:
        return Unavailable(
            f"{constants.ENDPOINT} refuses more requests for now (429); run the same command in "
            "some minutes, what has arrived is kept. `hf auth login` raises the limit"
        )
    if status:
        return Unavailable(
            f"{constants.ENDPOINT} answered with status {status} when asked for '{repository}'; "
            "run the same command later, what has arrived is kept"
        )
    return NotFound(
        f"checkpoint '{name}' is neither a folder here nor whole in the cache "
        f"{constants.HF_HUB_CACHE}, and {constants.ENDPOINT} did not give it "
        f"({type(cause).__name__}). If the network failed, the same command fetches the rest. "
        f"{elsewhere}"
    )
