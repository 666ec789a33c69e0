import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from registered import add_version
from settled import settled_job, street
from sqlalchemy import delete, insert, select, update
from students import write_student

from secondlook.detector.manifest import ModelFile, StudentManifest
from secondlook.store import Store, open_store
from secondlook.store import model_versions as students
from secondlook.store.backup import back_up, restore
from secondlook.store.integrity import CheckCounts, check
from secondlook.store.retention import Retention, forget, orphans, remove_orphans
from secondlook.store.schema import images, model_files, model_promotions, model_versions
from secondlook_client.errors import Damaged, NotFound


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "0"
    write_student(path)
    return path


def kept(
    store: Store, folder: Path, seed: int = 0, name: str = "street"
) -> students.StudentVersion:
    """A version whose manifest differs from others by its time."""
    return add_version(store, folder, name, '{"map": 0.5}', created_at=1.7e9 + seed)


def current(store: Store, name: str = "street") -> int:
    return store.model_versions.get(name).version


def promote(store: Store, *versions: int) -> None:
    before = None
    for version in versions:
        assert store.model_versions.promote("street", version, "a test", before)
        before = version


def test_versions_count_from_one_for_each_name(store: Store, folder: Path) -> None:
    versions = [kept(store, folder, seed).version for seed in range(3)]
    assert versions == [1, 2, 3]
    assert kept(store, folder, 0, "other").version == 1
    found = store.model_versions.get("street", 2, report=True)
    assert (found.report, found.current, found.promotion) == ('{"map": 0.5}', False, "")
    assert set(found.files) >= {"model.onnx", "self_test.npz"}
    assert store.model_versions.get("street", 2).report == ""


def test_the_same_student_is_kept_once(store: Store, folder: Path) -> None:
    first = kept(store, folder)
    kept(store, folder, 1)
    again, already = store.model_versions.add("street", _manifest(first))
    assert already and (again.version, again.id) == (1, first.id)
    assert len(store.model_versions.page()) == 2


def _manifest(student: students.StudentVersion) -> StudentManifest:
    from secondlook.detector.manifest import parse_manifest

    return parse_manifest(student.manifest)


def test_a_student_whose_files_were_not_kept_is_no_version(store: Store, folder: Path) -> None:
    manifest = _manifest(kept(store, folder))
    lost = dict(manifest.files) | {"extra.bin": ModelFile("ab" * 32, 3)}
    with pytest.raises(Damaged, match=r"extra\.bin of the student was not stored"):
        store.model_versions.add("street", replace(manifest, files=lost))
    assert len(store.model_versions.page()) == 1


def test_writers_at_once_get_different_numbers(store: Store, folder: Path) -> None:
    kept(store, folder)
    got: list[int] = []
    wrong: list[BaseException] = []
    ready = threading.Barrier(4)

    def write(seed: int) -> None:
        try:
            ready.wait()
            got.extend(kept(store, folder, seed * 10 + n).version for n in range(1, 4))
        except BaseException as failure:
            wrong.append(failure)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and sorted(got) == list(range(2, 14))


def test_pages_are_newest_first(store: Store, folder: Path) -> None:
    for seed in range(5):
        kept(store, folder, seed)
    kept(store, folder, name="other")
    first = store.model_versions.page("street", limit=2)
    rest = store.model_versions.page("street", before=first[-1].id, limit=10)
    assert [s.version for s in first + rest] == [5, 4, 3, 2, 1]
    assert len(store.model_versions.page()) == 6


def test_what_is_not_there_says_what_to_do(store: Store, folder: Path) -> None:
    with pytest.raises(NotFound, match="no model 'street'; see `secondlook models list`"):
        store.model_versions.get("street")
    kept(store, folder)
    with pytest.raises(NotFound, match="`secondlook models promote street 1`"):
        store.model_versions.get("street")
    with pytest.raises(NotFound, match="no version 7 of 'street'; the last one is 1"):
        store.model_versions.get("street", 7)
    with pytest.raises(NotFound, match=r"no file '\.\./x', only model"):
        store.model_versions.file("street", 1, "../x")
    with pytest.raises(NotFound, match="no version 9"):
        store.model_versions.promote("street", 9, "", None)


def test_promotions_are_added_and_each_way_back_undoes_one(store: Store, folder: Path) -> None:
    for seed in range(4):
        kept(store, folder, seed)
    promote(store, 1, 3, 2)
    assert current(store) == 2
    assert store.model_versions.rollback("street").version == 3
    assert store.model_versions.rollback("street").version == 1
    with pytest.raises(NotFound, match="no version of 'street' was current before version 1"):
        store.model_versions.rollback("street")
    assert store.model_versions.promote("street", 4, "on", 1)
    assert store.model_versions.rollback("street").version == 1  # and not to 3, which was undone
    with store.database.reading() as connection:
        rows = connection.execute(select(model_promotions.c.kind)).scalars().all()
    assert rows == ["promote"] * 3 + ["rollback"] * 2 + ["promote", "rollback"]
    assert [s.version for s in store.model_versions.page() if s.current] == [1]
    assert store.model_versions.get("street").promotion == "rolled back from version 4"


def test_a_promotion_on_grounds_that_are_gone_changes_nothing(store: Store, folder: Path) -> None:
    for seed in range(3):
        kept(store, folder, seed)
    promote(store, 1, 2)
    assert not store.model_versions.promote("street", 3, "compared with 1", 1)
    assert not store.model_versions.promote("street", 3, "there was none", None)
    assert current(store) == 2
    assert store.model_versions.promote("street", 2, "again", 1)  # is current already
    with store.database.reading() as connection:
        assert len(connection.execute(select(model_promotions)).all()) == 2


def test_a_call_made_twice_goes_back_once(store: Store, folder: Path) -> None:
    for seed in range(3):
        kept(store, folder, seed)
    promote(store, 1, 2, 3)
    assert store.model_versions.rollback("street", 3).version == 2
    assert store.model_versions.rollback("street", 3).version == 2
    with pytest.raises(NotFound, match="no version 8"):
        store.model_versions.rollback("street", 8)


def test_promotions_at_once_follow_one_another(store: Store, folder: Path) -> None:
    for seed in range(3):
        kept(store, folder, seed)
    promote(store, 1)
    done: list[bool] = []
    second = threading.Thread(
        target=lambda: done.append(store.model_versions.promote("street", 3, "compared with 1", 1))
    )
    with store.database.writing() as connection:  # as another server that promotes version 2
        students._lock(connection, "street")
        second.start()
        second.join(0.3)
        assert done == []
        two = students._found(connection, "street", 2)
        students._append(connection, two.id, "street", "promote", "first")
    second.join(30)
    assert done == [False] and current(store) == 2


def test_a_check_finds_what_is_wrong_with_students(store: Store, folder: Path) -> None:
    student = kept(store, folder)
    promote(store, 1)
    checked = CheckCounts()
    assert list(check(store, checked)) == []
    assert (checked.blobs, checked.orphans) == (len(student.files), 0)
    store.blobs.remove(student.files["model.onnx"].sha256)
    wrong = [
        (
            update(model_files).where(model_files.c.name == "self_test.npz").values(size=7),
            "7 bytes",
        ),
        (delete(model_files).where(model_files.c.name == "report.html"), "lists 4 files, and"),
        (update(model_versions).values(digest="0" * 64), "manifest has changed since"),
        (update(model_promotions).values(name="other"), "promotion 1: is of a version of another"),
    ]
    for statement, words in wrong:
        with store.database.writing() as connection:
            connection.execute(statement)
        assert any(words in str(finding) for finding in check(store)), words
    found = [str(finding) for finding in check(store, content=False)]
    assert any("model.onnx of version 1 of model street: its bytes are missing" in t for t in found)


def test_a_file_that_rots_is_found(store: Store, folder: Path) -> None:
    student = kept(store, folder)
    path = store.blobs._path(student.files["model.onnx"].sha256)
    path.chmod(0o644)
    path.write_bytes(b"rot")
    (finding,) = check(store)
    assert "no longer match their hash" in str(finding)
    assert "secondlook models add" in str(finding)


def test_a_backup_holds_the_students(store: Store, folder: Path, tmp_path: Path) -> None:
    student = kept(store, folder)
    promote(store, 1)
    made = back_up(store, tmp_path / "backup")
    assert made.blobs == len(student.files) and made.broken == []
    with open_store(tmp_path / "other") as other:
        assert restore(tmp_path / "backup", other).broken == []
        assert list(check(other)) == []
        found = other.model_versions.get("street")
        assert (found.version, found.digest) == (1, student.digest)
        for name, file in found.files.items():
            assert other.blobs.get(file.sha256) == (folder / name).read_bytes()


def test_nothing_of_a_student_is_an_orphan_or_deleted(store: Store, folder: Path) -> None:
    student = kept(store, folder)
    settled_job(store, "job", street("a", "b"))
    lost = store.blobs.put(b"nobody's")
    assert list(orphans(store)) == [lost]
    assert remove_orphans(store, -1.0) == 1
    # An image of the very bytes of a student's file goes, and the file stays.
    sha256 = bytes.fromhex(student.files["report.json"].sha256)
    with store.database.writing() as connection:
        connection.execute(update(images).where(images.c.id == 1).values(sha256=sha256))
    for path in store.blobs._root.glob("??/*"):
        os.utime(path, (1, 1))
    assert forget(store, Retention(runs=("job",))).images == 2
    assert list(check(store)) == []
    assert all(store.blobs.has(file.sha256) for file in student.files.values())


def test_a_promotion_without_its_version_is_no_row(store: Store) -> None:
    row = {"model_id": 99, "name": "x", "kind": "promote", "reason": "", "created_at": 0.0}
    with pytest.raises(Exception, match=r"(?i)foreign key"), store.database.writing() as connection:
        connection.execute(insert(model_promotions), [row])
