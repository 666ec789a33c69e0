"""Versions of students over gRPC: kept, compared, promoted, fetched over a bad line."""

import hashlib
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from flaky_line import FlakyLine
from registered import freeze_quarters, student
from serving import serving
from students import CLASSES, replace_model, swapped_classes, write_student

from secondlook.detector.manifest import manifest_text, parse_manifest, read_manifest, verify_files
from secondlook.detector.onnx_detector import OnnxDetector
from secondlook.store import Store, open_store
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import (
    Busy,
    Damaged,
    DeadlineExceeded,
    FolderUnusable,
    InvalidRequest,
    NotBetter,
    NotFound,
    NotReady,
    NotSupported,
)
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite; what differs between databases is tested in the store's own tests."""
    with open_store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def client(kept: Store) -> Iterator[Client]:
    with serving(store=kept) as running, Client(running.address) as connected:
        yield connected


@pytest.fixture
def folder(kept: Store, tmp_path: Path) -> Path:
    """A student, as if trained on the snapshot ``s`` of the store."""
    student(tmp_path / "student", freeze_quarters(kept, "s"))
    return tmp_path / "student"


def another(folder: Path, name: str, **changed: object) -> Path:
    """A sound student like the one in ``folder``, trained on the same snapshot."""
    fields = {"snapshot": read_manifest(folder).snapshot, "seed": 1} | changed
    write_student(folder.with_name(name), **fields)
    return folder.with_name(name)


def test_what_is_fetched_is_what_was_added(client: Client, folder: Path, tmp_path: Path) -> None:
    added = client.models.add(folder)
    manifest = read_manifest(folder)
    assert (added.name, added.version, added.digest) == ("street", 1, manifest.digest)
    assert added.manifest_json == manifest_text(manifest) and not added.current
    told: list[tuple[int, int]] = []
    out = tmp_path / "out" / "deep"
    got = client.models.download("street", 1, out, progress=lambda *n: told.append(n))
    assert got == added and told[-1] == (added.size, added.size) and told == sorted(told)
    assert {p.name for p in out.iterdir()} == {*manifest.files, "manifest.json"}
    verify_files(out, read_manifest(out))
    OnnxDetector.open(out).close()
    assert not (tmp_path / "out" / "deep.part").exists()
    assert (
        client.models.get("street", 1, report=True).report_json
        == (folder / "report.json").read_text()
    )


def test_adding_and_fetching_twice_changes_nothing(client, folder, tmp_path) -> None:
    first = client.models.add(folder, "a")
    assert client.models.add(folder, "a") == first
    assert client.models.add(folder, "b").version == 1
    for _ in range(2):
        client.models.download("a", 1, tmp_path / "out")
    assert [m.name for m in client.models.list()] == ["b", "a"]
    assert [m.version for m in client.models.list("a")] == [1]


def test_the_current_version_is_none_until_one_is_promoted(client: Client, folder: Path) -> None:
    assert client.models.current("street") is None
    client.models.add(folder)
    assert client.models.current("street") is None
    with pytest.raises(NotFound, match="`secondlook models promote street 1`"):
        client.models.get("street")
    promoted = client.models.promote("street", 1)
    assert promoted.comparison is None and promoted.model.promotion == "the first one"
    assert client.models.current("street") == promoted.model


def test_a_version_that_finds_as_much_is_promoted_and_rolled_back(client, folder) -> None:
    for path in (folder, another(folder, "second")):
        client.models.add(path)
    client.models.promote("street", 1)
    promoted = client.models.promote("street", 2)
    told = promoted.comparison
    assert told is not None
    assert (told.snapshot, told.split, told.pictures, told.current_version) == ("s", "val", 8, 1)
    assert told.current_map50 == told.candidate_map50 == pytest.approx(1.0)
    assert "mAP50 1.000 against 1.000 of version 1, on 8 held-out pictures" in (
        promoted.model.promotion
    )
    assert client.models.rollback("street").version == 1
    assert client.models.current("street").promotion == "rolled back from version 2"
    with pytest.raises(NotFound, match="no version of 'street' was current before version 1"):
        client.models.rollback("street")


def test_a_version_that_finds_less_is_refused_unless_forced(client, folder) -> None:
    client.models.add(folder)
    client.models.add(another(folder, "blind", classes=("person",)))
    client.models.promote("street", 1)
    with pytest.raises(NotBetter, match=r"mAP50 0\.500 against 1\.000 .* --force") as refused:
        client.models.promote("street", 2)
    assert refused.value.reason == "not_better"
    assert client.models.current("street").version == 1
    forced = client.models.promote("street", 2, force=True)
    assert forced.comparison is None and forced.model.promotion == "promoted by force"
    # Back to one that finds more: compared on the classes of the current one alone.
    again = client.models.promote("street", 1)
    assert again.comparison.current_map50 == again.comparison.candidate_map50 == 1.0


def test_the_order_of_the_classes_does_not_matter(client, folder, kept) -> None:
    freeze_quarters(kept, "turned", classes=("car", *reversed(CLASSES)))
    client.models.add(folder)
    client.models.add(another(folder, "more", classes=(*CLASSES, "car")))
    client.models.add(another(folder, "mixed", classes=tuple(reversed(CLASSES))))
    client.models.promote("street", 1)
    with pytest.raises(NotBetter, match=r"mAP50 0\.000 against 1\.000"):  # calls dogs persons
        client.models.promote("street", 3)
    told = client.models.promote("street", 2, on_snapshot="turned").comparison
    assert (told.snapshot, told.current_map50, told.candidate_map50) == ("turned", 1.0, 1.0)


def test_a_half_point_is_no_reason_to_refuse_and_more_is() -> None:
    from secondlook.dataset.compare_students import Comparison

    def good(candidate: float) -> bool:
        return Comparison("s", "val", 9, 1, 0.8, candidate).good_enough

    assert good(0.9) and good(0.8) and good(0.7951) and not good(0.7949) and not good(0.0)


def test_what_cannot_be_compared_says_what_to_do(client, folder, kept) -> None:
    client.models.add(folder)
    client.models.add(another(folder, "second"))
    client.models.promote("street", 1)
    freeze_quarters(kept, "trained", split="test")
    with pytest.raises(InvalidRequest, match=r"no picture in a split 'val'.*, only train, test"):
        client.models.promote("street", 2, on_snapshot="trained")
    freeze_quarters(kept, "foreign", classes=("person", "cat"))
    told = client.models.promote("street", 2, on_snapshot="foreign").comparison
    assert told is not None and told.snapshot == "foreign"
    client.models.rollback("street")
    with pytest.raises(NotFound, match="no snapshot 'nothing'"):
        client.models.promote("street", 2, on_snapshot="nothing")
    kept.snapshots.remove("s")
    with pytest.raises(NotFound, match="with --on-snapshot, or promote with --force"):
        client.models.promote("street", 2)
    assert client.models.current("street").version == 1


def test_only_the_first_pictures_are_compared_on(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.dataset.compare_students.MAX_PICTURES", 3)
    client.models.add(folder)
    client.models.add(another(folder, "second"))
    client.models.promote("street", 1)
    assert client.models.promote("street", 2).comparison.pictures == 3


def test_a_student_that_does_not_run_is_not_promoted(client, folder) -> None:
    swapped_classes(folder, read_manifest(folder))
    client.models.add(folder)
    with pytest.raises(Damaged):
        client.models.promote("street", 1)
    assert client.models.current("street") is None
    other = another(folder, "nonsense")
    replace_model(other, read_manifest(other), b"no model at all")
    client.models.add(other)
    with pytest.raises(Damaged):
        client.models.promote("street", 2)


def test_the_server_answers_while_models_are_compared(client, folder, monkeypatch) -> None:
    reached, gate = threading.Event(), threading.Event()
    real = OnnxDetector.detect

    def slow(self, pictures, *rest, **more):
        reached.set()
        assert gate.wait(30)
        return real(self, pictures, *rest, **more)

    for path in (folder, another(folder, "second"), another(folder, "third", seed=2)):
        client.models.add(path)
    client.models.promote("street", 1)
    monkeypatch.setattr("secondlook.server.models.MAX_COMPARISONS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxDetector, "detect", slow)
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(client.models.promote("street", 2)))
        thread.start()
        assert reached.wait(30)
        started = time.monotonic()
        assert client.models.current("street").version == 1
        assert client.info().proposer
        assert time.monotonic() - started < 5
        with pytest.raises(Busy, match="are being compared already"):
            client.models.promote("street", 3, timeout_s=1.0)
        gate.set()
        thread.join()
    assert done and client.models.current("street").version == 2


def test_a_promotion_that_was_given_up_changes_nothing(client, folder, monkeypatch) -> None:
    reached, gate = threading.Event(), threading.Event()
    real = OnnxDetector.detect
    seen: list[int] = []

    def slow(self, pictures, *rest, **more):
        seen.append(len(pictures))
        reached.set()
        assert gate.wait(30)
        return real(self, pictures, *rest, **more)

    for path in (folder, another(folder, "second")):
        client.models.add(path)
    client.models.promote("street", 1)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxDetector, "detect", slow)
        with pytest.raises(DeadlineExceeded):
            client.models.promote("street", 2, timeout_s=0.3)
        gate.set()
        time.sleep(0.5)
    assert client.models.current("street").version == 1
    assert reached.is_set() and len(seen) <= 2  # the self-tests, and no picture


# What comes from strangers.


def header(folder: Path, **changed: str) -> pb.AddVersionRequest:
    manifest = (folder / "manifest.json").read_text()
    fields = {"name": "street", "manifest_json": manifest, "report_json": "{}"} | changed
    return pb.AddVersionRequest(header=pb.AddVersionHeader(**fields))


def chunks(folder: Path, *names: str) -> list[pb.AddVersionRequest]:
    manifest = read_manifest(folder)
    return [chunk(name, (folder / name).read_bytes()) for name in names or manifest.files]


def chunk(file: str, data: bytes) -> pb.AddVersionRequest:
    return pb.AddVersionRequest(chunk=pb.ModelChunk(file=file, data=data))


@pytest.fixture
def send(client: Client):
    """Sends messages as they are; the version, or the error's words."""

    def go(messages: list[pb.AddVersionRequest]) -> object:
        with grpc.insecure_channel(client.address) as channel:
            stub = models_pb2_grpc.ModelServiceStub(channel)
            try:
                return stub.AddVersion(iter(messages), timeout=30).model.version
            except grpc.RpcError as failed:
                assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT, failed
                return failed.details()

    return go


def test_uploads_that_are_not_as_they_say_are_refused(send, folder, client, kept) -> None:
    manifest = read_manifest(folder)
    onnx = (folder / "model.onnx").read_bytes()
    rest = [name for name in manifest.files if name != "model.onnx"]

    def with_files(**files: object) -> pb.AddVersionRequest:
        plain = manifest_text(manifest).replace('"model.onnx"', '"{}"'.format(*files))
        return header(folder, manifest_json=plain)

    wrong = onnx[:-1] + bytes([onnx[-1] ^ 1])
    cases = [
        ([], "begins with its header"),
        (chunks(folder), "begins with its header"),
        ([header(folder), header(folder)], "header comes once"),
        ([header(folder, name="../x")], "letters, digits"),
        ([header(folder, name="")], "letters, digits"),
        ([header(folder, manifest_json="{")], "no JSON"),
        ([header(folder, manifest_json="[" * 10_000)], "no JSON"),
        ([header(folder, report_json="[1]")], "no JSON object"),
        ([header(folder, report_json="nan")], "no JSON"),
        ([header(folder, manifest_json="x" * (2**20 + 1))], "may have 1,048,576 characters"),
        ([with_files(**{"../model.onnx": 1})], "plain name"),
        ([with_files(**{"manifest.json": 1})], "model.onnx|manifest.json"),
        ([header(folder), *chunks(folder)[:-1]], "did not come whole: 0 of"),
        ([header(folder), chunk("model.onnx", onnx[:-1])], "model.onnx did not come whole"),
        ([header(folder), chunk("model.onnx", onnx + b"x")], "longer than"),
        ([header(folder), chunk("model.onnx", wrong)], "its hash is another one"),
        ([header(folder), chunk("../../etc/x", b"x")], "names no file '../../etc/x'"),
        ([header(folder), chunk("manifest.json", b"x")], "names no file 'manifest.json'"),
        ([header(folder), *chunks(folder, "model.onnx") * 2], "after its end"),
        (
            [header(folder), chunk("model.onnx", onnx[:5]), chunk("report.json", b"{")],
            "before the end of model.onnx",
        ),
        ([header(folder), chunk("model.onnx", bytes(2**20 + 1))], "at most 1,048,576"),
    ]
    for messages, words in cases:
        said = send(messages)
        assert isinstance(said, str) and re.search(words, said), (words, said)
    assert list(client.models.list()) == []
    halves = [chunk("model.onnx", onnx[:100]), chunk("model.onnx", onnx[100:])]
    assert send([header(folder), *halves, *chunks(folder, *rest)]) == 1


def test_a_student_that_is_too_large_is_refused_before_it_is_sent(send, folder) -> None:
    manifest = read_manifest(folder)
    for size, count in ((129 * 2**20, 1), (128 * 2**20, 9)):
        files = dict(manifest.files) | {f"{n}.bin": manifest.files["model.onnx"] for n in range(9)}
        for name in sorted(files)[:count]:
            files[name] = replace(files[name], size=size)
        plain = manifest_text(replace(manifest, files=files))
        said = send([header(folder, manifest_json=plain)])
        assert "may have 1,073,741,824 bytes, and each file 134,217,728" in said


def test_a_silent_sender_and_a_third_one_are_sent_away(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.server.model_arrivals.SILENCE_S", 1.0)
    gate = threading.Event()

    def endless() -> Iterator[pb.AddVersionRequest]:
        yield header(folder)
        gate.wait(30)

    with grpc.insecure_channel(client.address) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        silent = [stub.AddVersion.future(endless()) for _ in range(2)]
        time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as busy:
            stub.AddVersion(iter([header(folder)]), timeout=10)
        assert busy.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in silent:
            assert call.exception(timeout=20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()
    assert client.models.add(folder).version == 1


def test_a_folder_that_is_not_as_its_manifest_says_is_not_sent(client, folder, tmp_path) -> None:
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match=r"model\.onnx is missing or not the one"):
        client.models.add(folder)
    (folder / "manifest.json").write_text('{"name": 3, "files": {"../x": {}}}')
    with pytest.raises(InvalidRequest, match="no manifest of a student"):
        client.models.add(folder)
    with pytest.raises(NotFound, match="secondlook distill"):
        client.models.add(tmp_path / "nowhere")


def test_wrong_numbers_are_refused(client, folder) -> None:
    client.models.add(folder)
    stub = models_pb2_grpc.ModelServiceStub(grpc.insecure_channel(client.address))
    far = pb.DownloadModelRequest(name="street", version=1, file="model.onnx", offset=2**60)
    cases = [
        (lambda: list(stub.DownloadModel(far)), "cannot be left out"),
        (lambda: stub.PromoteModel(pb.PromoteModelRequest(name="street")), "a number from 1"),
        (lambda: stub.GetModel(pb.GetModelRequest(name="street", version=2**32 - 1)), "last one"),
        (lambda: stub.ListModels(pb.ListModelsRequest(page_size=500)), "up to 200"),
        (lambda: stub.ListModels(pb.ListModelsRequest(page_token="x")), "no page_token"),
        (lambda: stub.GetTraining(pb.GetTrainingRequest(id=2**64 - 1)), "expected the id"),
        (lambda: stub.GetTraining(pb.GetTrainingRequest(id=5)), "no training 5"),
    ]
    for call, words in cases:
        with pytest.raises(grpc.RpcError) as failed:
            call()
        assert words in failed.value.details()
    with pytest.raises(InvalidRequest, match="from 0, got -1"):
        client.models.get("street", -1)


def test_names_that_nothing_has_never_reach_a_database(client, folder) -> None:
    client.models.add(folder)
    for name in ("", "../x", "a\0b", "ü", "x" * 201):
        for call in (
            lambda n=name: client.models.get(n),
            lambda n=name: client.models.promote(n, 1),
            lambda n=name: client.models.rollback(n),
            lambda n=name: client.models.download(n, 1, folder.with_name("out")),
        ):
            with pytest.raises(NotFound, match="none can have such a name"):
                call()
    with pytest.raises(NotFound, match="there is no snapshot"):
        client.models.promote("street", 1, on_snapshot="\0")


def test_long_manifests_make_short_pages(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.server.models_messages.LARGE_PAGE", 3000)
    for seed in range(5):
        client.models.add(another(folder, f"n{seed}", seed=seed))
    stub = models_pb2_grpc.ModelServiceStub(grpc.insecure_channel(client.address))
    first = stub.ListModels(pb.ListModelsRequest())
    assert 0 < len(first.models) < 5 and first.next_page_token
    assert [m.version for m in client.models.list()] == [5, 4, 3, 2, 1]
    two = stub.ListModels(pb.ListModelsRequest(page_size=1))
    assert len(two.models) == 1 and two.models[0].version == 5


def test_servers_that_keep_nothing_or_train_nothing_say_so(client, folder) -> None:
    with serving() as bare, Client(bare.address) as other:
        for call in (
            lambda: other.models.get("street"),
            lambda: other.models.add(folder),
            lambda: list(other.models.list()),
            lambda: other.models.train("street", "s"),
        ):
            with pytest.raises(NotSupported, match="start it with --data"):
                call()
    with pytest.raises(NotSupported, match="this server trains nothing"):
        client.models.train("street", "s")


# Lines that break, disks that rot.


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
    client.models.add(another(folder, "second"))

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
    with pytest.raises(InvalidRequest, match="no file 'nothing', only model"):
        client.models.download("street", 1, tmp_path / "out", files=["nothing"])
    client.models.download("street", 1, tmp_path / "out", files=["model.onnx", "self_test.npz"])
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_two_downloads_into_one_folder_do_not_mix(client, folder, tmp_path) -> None:
    from secondlook_client.model_folder import PartFolder

    added = client.models.add(folder)
    with (
        PartFolder.opened(tmp_path / "out", added),
        pytest.raises(FolderUnusable, match="another process is at work"),
    ):
        client.models.download("street", 1, tmp_path / "out")


def test_a_server_that_lies_about_the_manifest_is_not_believed(client, folder) -> None:
    from secondlook_client.model_values import model_version

    client.models.add(folder)
    stub = models_pb2_grpc.ModelServiceStub(grpc.insecure_channel(client.address))
    sound = stub.GetModel(pb.GetModelRequest(name="street", version=1)).model
    assert model_version(sound).version == 1
    for change in (
        lambda m: m.files["../x"].CopyFrom(m.files["model.onnx"]),
        lambda m: setattr(m, "manifest_json", m.manifest_json + " "),
        lambda m: setattr(m.files["model.onnx"], "sha256", "0" * 64),
        lambda m: m.files.pop("self_test.npz"),
    ):
        lying = pb.ModelVersion()
        lying.CopyFrom(sound)
        change(lying)
        with pytest.raises(Damaged, match="another manifest than its digest says"):
            model_version(lying)
    assert parse_manifest(sound.manifest_json).digest == sound.digest


def test_a_server_without_onnxruntime_says_what_to_install(client, folder, monkeypatch) -> None:
    import sys

    client.models.add(folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotReady, match=r"secondlook\["):
        client.models.promote("street", 1)
    assert client.models.promote("street", 1, force=True).model.current
