"""Calibrators and guarantees as the store keeps them."""

from dataclasses import replace

import pytest
from settled import settled_job, street
from sqlalchemy import delete, func, select, update

from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.store import Store
from secondlook.store.guarantees import APPLIED, GuaranteeState
from secondlook.store.integrity import check
from secondlook.store.retention import Retention, forget
from secondlook.store.schema import calibrators, guarantee_events, guarantees, runs
from secondlook_client.errors import AlreadyExists, Damaged, NotFound

CALIBRATOR = Calibrator(("dog",), ("score",), (0.5,), (ClassFit(0.25, (4.0,)),), source="a test")
WANTED = {"precision": 0.95, "budget": 200}


@pytest.fixture
def run(store: Store) -> Store:
    settled_job(store, "street", street("a", "b"))
    return store


def rows(store: Store, table) -> int:
    with store.database.reading() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_calibrator_is_stored_once_and_read_back(store: Store) -> None:
    assert store.calibrators.put(CALIBRATOR, "first") == CALIBRATOR.digest
    assert store.calibrators.put(CALIBRATOR, "second") == CALIBRATOR.digest
    assert rows(store, calibrators) == 1
    for name in (CALIBRATOR.digest, "first"):
        assert store.calibrators.get(name) == CALIBRATOR
    for missing in ("second", "", "0" * 64):
        with pytest.raises(NotFound, match="no calibrator"):
            store.calibrators.get(missing)


def test_the_newest_calibrator_of_a_name_counts(store: Store) -> None:
    newer = replace(CALIBRATOR, answers=7)
    store.calibrators.put(CALIBRATOR, "street")
    store.calibrators.put(newer, "street")
    assert store.calibrators.get("street") == newer
    assert [row.digest for row in store.calibrators.page()] == [newer.digest, CALIBRATOR.digest]


def test_a_changed_calibrator_is_damaged(run: Store) -> None:
    run.calibrators.put(CALIBRATOR)
    with run.database.writing() as connection:
        other = CALIBRATOR.to_json().replace("0.25", "0.75")
        connection.execute(update(calibrators).values(content=other))
    with pytest.raises(Damaged, match="changed since"):
        run.calibrators.get(CALIBRATOR.digest)
    assert ["changed since" in str(finding) for finding in check(run)] == [True]


def test_a_guarantee_changes_and_its_history_only_grows(run: Store) -> None:
    made = run.guarantees.create("street-95", "street", WANTED)
    assert (made.state, made.run, made.settings) == (GuaranteeState.ASKING, "street", WANTED)
    changed = run.guarantees.change(
        "street-95",
        "certified",
        {"answers": 200},
        state=GuaranteeState.HOLDS,
        calibrator=CALIBRATOR,
        certificate="{}",
    )
    assert (changed.state, changed.calibrator) == (GuaranteeState.HOLDS, CALIBRATOR.digest)
    assert changed.updated_at >= made.updated_at and changed.created_at == made.created_at
    run.guarantees.change("street-95", "withdrawn", state=GuaranteeState.WITHDRAWN)
    events = run.guarantees.events("street-95")
    assert [event.kind for event in events] == ["asking", "certified", "withdrawn"]
    assert events[1].content == {"answers": 200}
    assert run.guarantees.get("street-95").certificate == "{}"
    assert run.calibrators.get(CALIBRATOR.digest) == CALIBRATOR


def test_a_name_is_taken_once_and_an_unknown_one_is_told(run: Store) -> None:
    run.guarantees.create("one", "street", WANTED)
    with pytest.raises(AlreadyExists, match="guarantee 'one' already"):
        run.guarantees.create("one", "street", WANTED)
    with pytest.raises(NotFound, match="no run 'avenue'"):
        run.guarantees.create("two", "avenue", WANTED)
    with pytest.raises(NotFound, match=r"no guarantee 'two' .* newest are 'one'"):
        run.guarantees.get("two")
    assert run.guarantees.find("two") is None
    assert [row.name for row in run.guarantees.page()] == ["one"]
    assert run.guarantees.page("avenue") == []


def test_the_run_that_it_made_last_is_the_applied_one(run: Store) -> None:
    run.guarantees.create("one", "street", WANTED)
    assert run.guarantees.applied("one") is None
    for name in ("first", "second"):
        told = {"run": name, "classes": ["dog"], "summary": ["It holds."]}
        run.guarantees.change("one", APPLIED, told)
    applied = run.guarantees.applied("one")
    assert applied is not None
    assert (applied.run, applied.classes, applied.summary) == ("second", ("dog",), ("It holds.",))


def test_a_run_stays_while_it_has_a_guarantee_that_nobody_withdrew(run: Store) -> None:
    run.guarantees.create("one", "street", WANTED)
    assert forget(run, Retention(runs=("street",))).runs == 0
    assert rows(run, runs) == 1
    run.guarantees.change("one", "withdrawn", state=GuaranteeState.WITHDRAWN)
    assert forget(run, Retention(runs=("street",))).runs == 1
    assert (rows(run, guarantees), rows(run, guarantee_events)) == (0, 0)


def test_the_check_finds_what_is_missing(run: Store) -> None:
    run.guarantees.create("one", "street", WANTED)
    run.guarantees.change("one", "certified", state=GuaranteeState.HOLDS, calibrator=CALIBRATOR)
    assert [str(finding) for finding in check(run)] == [
        "guarantee one: is in the state 'holds' and has no certificate; "
        "restore a backup with `secondlook restore`"
    ]
    with run.database.writing() as connection:
        connection.execute(delete(calibrators))
        connection.execute(update(guarantees).values(certificate="{", state="lost"))
        settings = '{"calibrator": "' + "ab" * 32 + '"}'
        connection.execute(update(runs).values(settings=settings))
    found = " ".join(str(finding) for finding in check(run))
    assert "run street: its calibrator abababababab is missing" in found
    assert "unknown state 'lost'" in found and "no JSON" in found
    assert f"its calibrator {CALIBRATOR.digest[:12]} is missing" in found
