"""Signatures of models: made by a server's key, checked by devices before they fetch anything."""

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from device_models import FolderRegistry
from students import write_student

from secondlook.cli.models import models_command
from secondlook.core.signing import ModelSigner, SignatureChecker, create_key
from secondlook.edge.app import open_student
from secondlook.edge.model_cache import ModelCache
from secondlook.edge.model_updater import ModelUpdater
from secondlook.edge.settings import EdgeSettings
from secondlook.store import open_store
from secondlook_client.errors import BadSetting, Damaged


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two private keys; the public ones lie beside them."""
    folder = tmp_path_factory.mktemp("keys")
    made = CliRunner().invoke(models_command, ["create-key", str(folder / "a.pem")])
    assert made.exit_code == 0, made.output
    create_key(folder / "b.pem")
    return folder / "a.pem", folder / "b.pem"


def test_a_signature_fits_one_name_digest_and_key(keys: tuple[Path, Path]) -> None:
    mine, others = keys
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    signature = ModelSigner(str(mine)).sign("street", "d" * 64)
    checker = SignatureChecker(f"{mine}.pub")
    checker.check("street", "d" * 64, signature)
    for name, digest, shown in (
        ("street", "e" * 64, signature),
        ("other", "d" * 64, signature),
        ("street", "d" * 64, ModelSigner(str(others)).sign("street", "d" * 64)),
        ("street", "d" * 64, signature[:-1]),
        ("street", "d" * 64, bytes(64)),
    ):
        with pytest.raises(Damaged, match="is not that of the device's key"):
            checker.check(name, digest, shown)
    with pytest.raises(Damaged, match="has no signature"):
        checker.check("street", "d" * 64, b"")


def test_keys_that_are_none_are_told(keys: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"-----BEGIN nothing")
    for make in (ModelSigner, SignatureChecker):
        for path in (tmp_path / "x", tmp_path / "missing"):
            with pytest.raises(BadSetting, match=r"create-key|cannot be read"):
                make(str(path))
    with pytest.raises(BadSetting, match="is no usable"):
        SignatureChecker(str(keys[0]))  # the private one: it must not lie on devices
    with pytest.raises(BadSetting, match="cannot be written: file exists"):
        create_key(keys[0])


def test_a_device_takes_no_byte_of_a_model_without_its_keys_signature(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, offered = FolderRegistry(tmp_path / "server"), []
    updater = ModelUpdater(
        EdgeSettings(model="street"),
        registry,
        ModelCache(tmp_path / "models", "street", keep=2),
        lambda folder, stopped: None,
        open_student,
        offered.append,
        SignatureChecker(f"{keys[0]}.pub"),
    )
    registry.add(1)
    for sign in (lambda name, digest: b"", ModelSigner(str(keys[1])).sign):
        registry.sign = sign
        with pytest.raises(Damaged, match="signature"):
            updater.poll()
    assert (registry.downloads, offered) == ([], [])
    registry.sign = ModelSigner(str(keys[0])).sign
    assert updater.poll()
    assert [model.version for model in offered] == [1]


def test_what_is_added_or_promoted_is_signed(keys: tuple[Path, Path], tmp_path: Path) -> None:
    checker = SignatureChecker(f"{keys[0]}.pub")
    with open_store(tmp_path / "data") as store:
        students = []
        for seed in (1, 2):
            folder = tmp_path / str(seed)
            manifest = write_student(folder, seed=seed)
            for name in manifest.files:
                store.blobs.put((folder / name).read_bytes())
            students.append(manifest)
        before, _ = store.model_versions.add("street", students[0])
        assert before.signature == b""
        store.model_versions.sign = ModelSigner(str(keys[0])).sign
        added, _ = store.model_versions.add("street", students[1])
        checker.check("street", added.digest, added.signature)
        assert store.model_versions.promote("street", 1, "as before", None)
        current = store.model_versions.get("street")
        assert current.digest == before.digest
        checker.check("street", current.digest, current.signature)
