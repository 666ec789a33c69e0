"""Students fetched from a server: over lines that break, onto disks that rot."""

import hashlib
import random
import threading
from pathlib import Path

import pytest
from flaky_line import FlakyLine
from registered import another_student
from serving import serving
from students import replace_model

from secondlook.detector.manifest import read_manifest, verify_files
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import Damaged, FolderUnusable, InvalidInput


def test_a_download_over_a_line_that_is_cut_at_random_is_whole(kept, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("secondlook.server.models.CHUNK", 29)
    luck = random.Random(7)
    with (
        serving(store=kept) as running,
        FlakyLine(running.address) as line,
        Client(line.address, retry=RetryPolicy(first_s=0.01, unavailable_s=30)) as client,
    ):
        size = client.models.add(folder).size
        cuts, last = 0, 0

        def cut(here: int, total: int) -> None:
            nonlocal cuts, last
            assert here >= last, "what has come is not fetched again"
            last = here
            if cuts < 25 and luck.random() < 0.2:
                cuts += 1
                line.cut()

        client.models.download("street", 1, tmp_path / "out", progress=cut)
    assert cuts >= 20 and last == size
    verify_files(tmp_path / "out", read_manifest(tmp_path / "out"))


def test_a_download_goes_on_with_another_server(kept, folder, tmp_path) -> None:
    # Larger than the line's buffers: the first server has not sent all when it stops.
    content = random.Random(3).randbytes(12 * 2**20)
    replace_model(folder, read_manifest(folder), content, "report.html")
    retry = RetryPolicy(first_s=0.01, unavailable_s=30)
    reached, changed = threading.Event(), threading.Event()
    with FlakyLine("") as line, Client(line.address, retry=retry) as client:
        done: list[object] = []

        def wait_at_half(here: int, total: int) -> None:
            if here > total / 2 and not reached.is_set():
                reached.set()
                assert changed.wait(30)

        def fetch() -> None:
            done.append(client.models.download("street", 1, tmp_path / "out", (), wait_at_half))

        thread = threading.Thread(target=fetch)
        with serving(store=kept) as first:
            line.target = first.address
            client.models.add(folder)
            thread.start()
            assert reached.wait(30)
            line.cut()
        with serving(store=kept) as second:
            line.target = second.address
            changed.set()
            thread.join(60)
    assert done
    verify_files(tmp_path / "out", read_manifest(tmp_path / "out"))


class Stopped(Exception):
    """The device lost power."""


def test_a_download_that_broke_off_is_gone_on_with(client, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.server.models.CHUNK", 64)
    client.models.add(folder)
    client.models.add(another_student(folder, "second"))

    def stop_at(limit: int):
        def tell(here: int, total: int) -> None:
            if here > limit:
                raise Stopped

        return tell

    out = tmp_path / "out"
    for limit in (100, 1500):
        with pytest.raises(Stopped):
            client.models.download("street", 1, out, progress=stop_at(limit))
        assert not out.exists()
    told: list[int] = []
    with pytest.raises(Stopped):
        client.models.download(
            "street", 1, out, progress=lambda n, of: told.append(n) or stop_at(2000)(n, of)
        )
    assert told[0] > 0 and told[-1] > 2000 and 0 not in [n for n in told if n > 1500]
    # Another version begins anew: nothing of the first is mixed in.
    client.models.download("street", 2, out)
    assert read_manifest(out) == read_manifest(folder.with_name("second"))
    verify_files(out, read_manifest(out))


def test_what_rots_on_the_device_is_fetched_again(client, folder, tmp_path) -> None:
    client.models.add(folder)
    out, part = tmp_path / "out", tmp_path / "out.part"
    part.mkdir()
    (part / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    (part / "model.onnx").write_bytes(b"\0" * 40)
    (part / "self_test.npz").write_bytes(b"\0" * (folder / "self_test.npz").stat().st_size)
    (part / "report.html").write_bytes(b"\0" * 10**6)
    (part / "left.over").write_bytes(b"x")
    client.models.download("street", 1, out)
    verify_files(out, read_manifest(out))
    assert not (out / "left.over").exists()
    (out / "model.onnx").write_bytes(b"rot")
    client.models.download("street", 1, out)
    verify_files(out, read_manifest(out))


def test_wrong_bytes_are_discarded_and_told(client, folder, tmp_path, kept, monkeypatch) -> None:
    client.models.add(folder)
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    real = type(kept.blobs).get

    def lying(self, name):
        content = real(self, name)
        return bytes([content[0] ^ 255]) + content[1:] if name == sha256 else content

    with monkeypatch.context() as patch:
        patch.setattr(type(kept.blobs), "get", lying)
        with pytest.raises(Damaged, match=r"model\.onnx of version 1 .* was discarded"):
            client.models.download("street", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part" / "model.onnx").exists()
    client.models.download("street", 1, tmp_path / "out")
    verify_files(tmp_path / "out", read_manifest(tmp_path / "out"))


def test_a_file_that_is_damaged_on_the_server_is_told(client, folder, tmp_path, kept) -> None:
    added = client.models.add(folder)
    path = kept.blobs._path(added.files["model.onnx"][0])
    path.chmod(0o644)
    path.write_bytes(b"rot")
    with pytest.raises(Damaged, match="no longer matches its hash"):
        client.models.download("street", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_used_is_told(client, folder, tmp_path) -> None:
    client.models.add(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for place in (tmp_path / "full", Path("/proc/nowhere/x"), tmp_path / "full" / "mine.txt" / "x"):
        with pytest.raises(FolderUnusable):
            client.models.download("street", 1, place)
    assert (tmp_path / "full" / "mine.txt").read_text() == "x"
    with pytest.raises(InvalidInput, match="no file 'nothing', only model"):
        client.models.download("street", 1, tmp_path / "out", files=["nothing"])
    client.models.download("street", 1, tmp_path / "out", files=["model.onnx", "self_test.npz"])
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_two_downloads_into_one_folder_do_not_mix(client, folder, tmp_path) -> None:
    from secondlook_client.model_folder import PartFolder

    added = client.models.add(folder)
    with (
        PartFolder.opened(tmp_path / "out", added),
        pytest.raises(FolderUnusable, match="another process is downloading"),
    ):
        client.models.download("street", 1, tmp_path / "out")
