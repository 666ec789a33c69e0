"""Versions of students over gRPC: kept, listed, and asked for as nobody should."""

from pathlib import Path

import grpc
import pytest
from registered import another_student
from serving import serving

from secondlook.detector.manifest import manifest_text, parse_manifest, read_manifest, verify_files
from secondlook.detector.runtime import OnnxDetector
from secondlook_client import Client
from secondlook_client.errors import Damaged, InvalidInput, NotFound, NotSupported
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc


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


def test_wrong_numbers_are_refused(client, folder) -> None:
    client.models.add(folder)
    stub = models_pb2_grpc.ModelServiceStub(grpc.insecure_channel(client.address))
    far = pb.DownloadModelRequest(name="street", version=1, file="model.onnx", offset=2**60)
    cases = [
        (lambda: list(stub.DownloadModel(far)), "cannot be left out"),
        (lambda: stub.PromoteModel(pb.PromoteModelRequest(name="street")), "a number from 1"),
        (lambda: stub.GetModel(pb.GetModelRequest(name="street", version=2**32 - 1)), "last one"),
        (
            lambda: stub.ListModels(pb.ListModelsRequest(page_size=500)),
            "page_size: expected at most 200",
        ),
        (lambda: stub.ListModels(pb.ListModelsRequest(page_token="x")), "invalid page_token"),
        (
            lambda: stub.GetTraining(pb.GetTrainingRequest(id=2**64 - 1)),
            "id: expected a number below 2^63",
        ),
        (lambda: stub.GetTraining(pb.GetTrainingRequest(id=5)), "no training 5"),
    ]
    for call, words in cases:
        with pytest.raises(grpc.RpcError) as failed:
            call()
        assert words in failed.value.details()
    with pytest.raises(InvalidInput, match="from 0, got -1"):
        client.models.get("street", -1)


def test_names_that_nothing_has_never_reach_a_database(client, folder) -> None:
    client.models.add(folder)
    for name in ("", "../x", "ü", "-"):
        for call in (
            lambda n=name: client.models.get(n),
            lambda n=name: client.models.promote(n, 1),
            lambda n=name: client.models.rollback(n),
            lambda n=name: client.models.download(n, 1, folder.with_name("out")),
        ):
            with pytest.raises(NotFound, match="none can have such a name"):
                call()
    with pytest.raises(NotFound, match="there is no snapshot"):
        client.models.promote("street", 1, on_snapshot="/")
    with pytest.raises(InvalidInput, match="name holds a NUL character"):
        client.models.get("a\0b")
    with pytest.raises(InvalidInput, match="name: expected at most 200 characters, got 201"):
        client.models.get("x" * 201)


def test_long_manifests_make_short_pages(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.server.converters.LARGE_PAGE", 3000)
    for seed in range(5):
        client.models.add(another_student(folder, f"n{seed}", seed=seed))
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
    with pytest.raises(NotSupported, match="this server trains no students"):
        client.models.train("street", "s")


def test_a_server_that_lies_about_the_manifest_is_not_believed(client, folder) -> None:
    from secondlook_client.wire import model_version

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
