"""Checkpoints from a hub: what is said, resumed, taken from the cache, and refused in words."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_server import COMMIT, HubServer, use_hub

from secondlook.models import hub as hub_module
from secondlook.models.hub import fetch_snapshot, split_revision
from secondlook.models.loading import FETCHED_FILES, short_name
from secondlook.models.photo import PHOTO_PAIRS, describe_pairs
from secondlook_client.errors import (
    NotFound,
    NotReady,
    SecondlookError,
    StorageFull,
    Unavailable,
)

NAME = "some-org/some-model"
SIZE = 3_000_000


class Fixture(NamedTuple):
    hub: HubServer
    repository: Path
    cache: Path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    """A hub with one repository, and an empty cache."""
    repository, cache = tmp_path / "repository", tmp_path / "cache"
    repository.mkdir()
    (repository / "config.json").write_text("{}")
    (repository / "model.safetensors").write_bytes(os.urandom(SIZE))
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    with HubServer({NAME: repository}) as hub:
        use_hub(monkeypatch, hub.url, cache)
        monkeypatch.setattr(hub_module, "LARGE_BYTES", 10**6)
        yield Fixture(hub, repository, cache)


def fetch(name: str = NAME) -> Path:
    return fetch_snapshot(name, FETCHED_FILES)


def test_a_download_is_told_and_the_cache_is_silent(
    served: Fixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch()
    told = capsys.readouterr().err
    assert f"fetching {NAME} (main, {COMMIT[:12]}) from {served.hub.url}: 3 MB in 2 files" in told
    assert f"licence apache-2.0, into {served.cache}" in told and f"fetched {NAME}" in told
    assert (folder / "model.safetensors").read_bytes() == (
        served.repository / "model.safetensors"
    ).read_bytes()
    assert not (folder / "pytorch_model.bin").exists()
    sent = served.hub.total_sent("safetensors")
    assert fetch() == folder and served.hub.total_sent("safetensors") == sent
    assert capsys.readouterr().err == ""


def test_a_cached_checkpoint_needs_no_hub(served: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    served.hub.status = 503
    assert fetch() == folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch() == folder


def test_a_killed_download_goes_on_where_it_stood(
    served: Fixture, capsys: pytest.CaptureFixture[str]
) -> None:
    served.hub.delay_s = 0.05
    code = (
        "import huggingface_hub.constants\n"
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 65536  # 10 MB: more than the file\n"
        "from secondlook.models import hub\n"
        "hub.LARGE_BYTES = 10**6\n"
        f"hub.fetch_snapshot({NAME!r}, ['*.json', '*.safetensors'])"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": served.hub.url,
        "HF_HUB_CACHE": str(served.cache),
        "HF_HUB_OFFLINE": "0",
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _arrived(served.cache) > 10 * 2**16:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _arrived(served.cache)
    assert 0 < before < SIZE
    served.hub.delay_s = 0.0
    folder = fetch()
    assert (folder / "model.safetensors").stat().st_size == SIZE
    assert (folder / "model.safetensors").read_bytes() == (
        served.repository / "model.safetensors"
    ).read_bytes()
    assert [at for name, at, _ in served.hub.sent if name == "model.safetensors"][-1] == before
    assert "going on with model.safetensors at" in capsys.readouterr().err


def test_a_part_that_is_damaged_is_fetched_again(served: Fixture) -> None:
    fetch()
    (blob,) = [file for file in served.cache.rglob("blobs/*") if file.stat().st_size == SIZE]
    blob.rename(blob.with_name(f"{blob.name}.part"))
    with (served.cache / blob.with_name(f"{blob.name}.part")).open("r+b") as file:
        file.write(b"damaged")
        file.truncate(SIZE // 2)
    with pytest.raises(Unavailable, match="arrived damaged"):
        fetch()
    assert (fetch() / "model.safetensors").read_bytes() == (
        served.repository / "model.safetensors"
    ).read_bytes()


def _arrived(cache: Path) -> int:
    return max((file.stat().st_size for file in cache.rglob("*.part")), default=0)


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "RepoNotFound", NotFound, "may be read without a login"),
        (401, "", NotFound, "hf auth login"),
        (403, "GatedRepo", NotReady, "asks for its terms to be accepted: do so at http"),
        (429, "", Unavailable, "refuses more requests for now"),
        (500, "", Unavailable, "answered with status 500"),
    ],
)
def test_refusals_say_what_to_do(
    served: Fixture, status: int, code: str, kind: type[SecondlookError], words: str
) -> None:
    served.hub.status, served.hub.error_code = status, code
    with pytest.raises(kind, match=words):
        fetch()


def test_names_and_revisions_that_are_not_there(served: Fixture) -> None:
    with pytest.raises(NotFound, match="no checkpoint 'some-org/none'"):
        fetch("some-org/none")
    with pytest.raises(NotFound, match="no revision 'v9'"):
        fetch(f"{NAME}@v9")
    with pytest.raises(NotFound, match="no hub id either"):
        fetch("a/b/c")
    assert fetch(f"{NAME}@{COMMIT}").name == COMMIT


@pytest.mark.parametrize("forbidden", [True, False])
def test_without_a_network_the_way_by_hand_is_told(
    served: Fixture, monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", forbidden)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NotFound) as refused:
        fetch()
    words = str(refused.value)
    assert f"hf download {NAME} --include" in words and "--proposer FOLDER" in words
    assert ("HF_HUB_OFFLINE forbids" in words) == forbidden


def test_a_full_disk_is_told_before_and_in_the_middle(
    served: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SPARE_BYTES", 10**18)
    with pytest.raises(StorageFull, match=r"3 MB are needed, and .* MB are free.*HF_HOME"):
        fetch()
    assert served.hub.sent == []
    monkeypatch.setattr(hub_module, "SPARE_BYTES", 0)
    real = hub_module.snapshot_download

    def full(*names: str, **wanted: Any) -> Any:
        if wanted.get("dry_run"):
            return real(*names, **wanted)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "snapshot_download", full)
    with pytest.raises(StorageFull, match=r"the disk is full.*What has arrived is kept"):
        fetch()


def test_a_download_that_breaks_off_can_be_repeated(
    served: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    served.hub.break_after = 2**17
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    try:
        fetch()
    except SecondlookError as failure:
        assert "the same command" in str(failure)
    served.hub.break_after = 0
    assert (fetch() / "model.safetensors").stat().st_size == SIZE


def test_a_revision_is_no_part_of_the_name() -> None:
    assert split_revision("org/name@v1") == ("org/name", "v1")
    assert split_revision("org/name") == ("org/name", None)
    assert short_name("org/name@refs/pr/3") == "name"
    assert short_name("org/name") == "name"


def test_pairs_for_photos_have_a_licence_and_a_size() -> None:
    assert set(PHOTO_PAIRS) == {"photo-small", "photo", "photo-large"}
    for name, pair in PHOTO_PAIRS.items():
        for model in (pair.proposer, pair.verifier):
            assert model.licence == "Apache-2.0" and model.megabytes > 100
            assert model.repository in describe_pairs()
        assert f"{name} (" in describe_pairs()
