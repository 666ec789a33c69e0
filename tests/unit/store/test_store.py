import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.store import Store, open_store
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
