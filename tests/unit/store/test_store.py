import os
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.store import Store, open_store
from secondlook.store.backup import back_up
from secondlook.store.images import NewImage, add_images
from secondlook.store.locks import deletion_lock
from secondlook.store.schema import images, jobs, ontologies, runs
from secondlook_client.errors import AlreadyExists, BadSetting

HOLDER = """
import sys, time
from pathlib import Path
from secondlook.store import open_store
open_store(Path(sys.argv[1]), serving=True)
print("held", flush=True)
time.sleep(60)
"""


def add_job(store: Store) -> None:
    with store.database.writing() as connection:
        connection.execute(ontologies.insert().values(id=1, digest="x", classes="[]"))
        run = {"name": "run", "kind": "folder", "proposer": "", "verifier": "", "settings": "{}"}
        connection.execute(runs.insert().values(id=1, ontology_id=1, created_at=0, **run))
        job = {"state": "running", "root": "", "closed": False, "message": "", "updated_at": 0}
        counts = {"total": 0, "done": 0, "failed": 0}
        lease = {"owner": "a dead one", "lease_until": 9e9}
        connection.execute(jobs.insert().values(run_id=1, **job, **counts, **lease))


def owner(store: Store) -> str:
    with store.database.reading() as connection:
        return str(connection.execute(jobs.select()).one().owner)


def test_a_server_that_was_killed_leaves_the_folder_and_its_jobs_free(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        add_job(store)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyExists, match=f"another server .process {holder.pid}.*--data"):
            open_store(tmp_path, serving=True)
        with open_store(tmp_path) as reader:  # explaining a label needs no such lock
            assert owner(reader) == ""
    finally:
        holder.kill()
        holder.wait()
    with open_store(tmp_path, serving=True) as store:
        assert owner(store) == ""
    with open_store(tmp_path, serving=True):
        pass


def test_servers_may_share_a_postgresql_and_keep_their_leases(postgres, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    with open_store(tmp_path, url, serving=True) as one:
        add_job(one)
        with open_store(tmp_path, url, serving=True) as two:
            assert owner(two) == "a dead one"


def test_a_second_server_on_the_same_file_by_another_name_is_refused(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(data)
    (other / "store.db").symlink_to(data / "store.db")
    names = [
        (tmp_path / "link", ""),
        (other, ""),
        (other, f"sqlite:///{data}/store.db"),
        (other, f"sqlite:///{other}/../link/./store.db"),
    ]
    with open_store(data, serving=True):
        for folder, url in names:
            with pytest.raises(AlreadyExists, match="in use by another server"):
                open_store(folder, url, serving=True)
            open_store(folder, url).close()  # a command beside a server is welcome
    with (
        open_store(*names[2], serving=True),
        pytest.raises(AlreadyExists, match="in use by another server"),
    ):
        open_store(data, serving=True)


def test_two_databases_in_one_folder_have_a_server_each(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "a", f"sqlite:///{tmp_path}/a.db", serving=True) as one,
        open_store(tmp_path / "b", f"sqlite:///{tmp_path}/b.db", serving=True) as two,
    ):
        assert one.database.file != two.database.file


def test_a_database_with_two_names_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "data").close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "store.db").hardlink_to(tmp_path / "data" / "store.db")
    for folder in ("data", "other"):
        with pytest.raises(BadSetting, match="2 names"):
            open_store(tmp_path / folder)
    (tmp_path / "other" / "store.db").unlink()
    open_store(tmp_path / "data", serving=True).close()


def test_a_server_with_other_blobs_than_the_database_s_is_refused(postgres, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    with open_store(tmp_path / "a", url, serving=True) as store:
        content = b"an image"
        with store.database.writing() as connection:
            add_images(connection, [NewImage.of(store.blobs.put(content), content)])
    with pytest.raises(BadSetting, match="share the folder of --data"):
        open_store(tmp_path / "b", url, serving=True)
    open_store(tmp_path / "a", url, serving=True).close()


def test_servers_that_start_with_other_blobs_on_an_empty_database_are_refused(
    postgres, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_database())
    (tmp_path / "link").symlink_to(tmp_path / "a")
    other = postgres.url(postgres.new_database())
    with open_store(tmp_path / "a", url, serving=True) as one:
        open_store(tmp_path / "b", other, serving=True).close()  # another database
        with pytest.raises(BadSetting, match="with another blob store"):
            open_store(tmp_path / "b", url + "&application_name=x", serving=True)
        with open_store(tmp_path / "link", url, serving=True) as two:
            assert one.blobs.put(b"x") == two.blobs.put(b"x")
        open_store(tmp_path / "b", url).close()  # a command that only looks
    open_store(tmp_path / "b", url, serving=True).close()


def test_a_database_that_went_away_lets_a_server_end(postgres, tmp_path: Path) -> None:
    name = postgres.new_database()
    with open_store(tmp_path / "a", postgres.url(name), serving=True) as store:
        postgres.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
    with open_store(tmp_path / "b", postgres.url(name), serving=True) as store:
        assert store.database.dialect == "postgresql"


def modes(folder: Path) -> set[tuple[bool, int]]:
    """(folder or file, rights) of everything in it."""
    found = [folder, *folder.rglob("*")]
    return {(path.is_dir(), path.stat().st_mode & 0o777) for path in found}


def test_what_a_store_keeps_is_for_its_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_store(tmp_path / "a" / "data", serving=True) as store:
            store.blobs.put(b"an image")
            with deletion_lock(store.database):
                pass
            back_up(store, tmp_path / "backup")
            alive = modes(tmp_path / "a")
    finally:
        os.umask(before)
    private = {(True, 0o700), (False, 0o600), (False, 0o400)}
    assert alive == private
    assert modes(tmp_path / "a") <= private and modes(tmp_path / "backup") <= private


def test_a_folder_that_others_may_read_stays_as_it_is_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    open_store(tmp_path / "data", serving=True).close()
    assert "chmod 700" in caplog.text
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755


def test_ids_of_deleted_rows_are_not_reused(store: Store) -> None:
    row = {"sha256": b"a" * 32, "size": 1, "width": 0, "height": 0, "format": "", "added_at": 0}
    with store.database.writing() as connection:
        first = connection.execute(images.insert().values(row)).inserted_primary_key
        connection.execute(images.delete())
        second = connection.execute(images.insert().values(row)).inserted_primary_key
    assert first is not None and second is not None and second[0] > first[0]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="--data"):
        open_store(tmp_path / "file" / "data")
