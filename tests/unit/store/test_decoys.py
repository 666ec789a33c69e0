from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from settled import settled_job
from sqlalchemy import func, insert, select, update
from stored import ANSWERS, labelled, stored_run

from secondlook.core.types import DecoyReply, Labelled
from secondlook.store import Store, open_store
from secondlook.store import results as results_module
from secondlook.store import retention as retention_module
from secondlook.store.backup import back_up
from secondlook.store.integrity import check
from secondlook.store.results import decision_row
from secondlook.store.retention import Retention, forget
from secondlook.store.runs import create_run
from secondlook.store.schema import decisions, decoys, evidence, images
from secondlook_client.errors import NotFound

YES = {**ANSWERS, "Dog?": 0.9}
NAMES = "abcdefgh"


def audited(answers: dict[str, float] = ANSWERS, share: float = 0.5) -> list[Labelled]:
    return [labelled(name, answers=answers, decoys=share) for name in NAMES]


def rows(store: Store, table) -> int:
    with store.database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def expected(results: list[Labelled]) -> Counter:
    return Counter((d.kind, d.class_name, d.said) for one in results for d in one.decoys)


def test_decoys_are_rows_of_their_own_and_evidence_and_decisions_stay_the_same(store: Store):
    results = audited()
    run, plain = stored_run(store, "audited", results), stored_run(store, "plain", audited(share=0))
    assert store.decoys.counts(run.id) == expected(results)
    assert rows(store, decoys) == expected(results).total() > 3
    assert not store.decoys.counts(plain.id)
    with store.database.reading() as connection:
        # The times that single verdicts took differ, so the packed evidence does.
        columns = (decisions.c.content, decisions.c.accepted, decisions.c.unsure)
        found = [
            connection.execute(select(*columns).where(decisions.c.run_id == one.id)).all()
            for one in (run, plain)
        ]
    assert found[0] == found[1] and len(found[0]) == len(NAMES)
    for kept in store.results.page(run.id):
        assert not kept.labelled.decoys


def test_an_image_that_a_run_has_twice_counts_once(store: Store) -> None:
    once = audited()
    twice = [*once, replace(once[0]), replace(once[3])]
    run = stored_run(store, "twice", twice)
    assert rows(store, decoys) > expected(once).total()
    assert store.decoys.counts(run.id) == expected(once)
    shown = store.decoys.answered_yes(run.id, 100)
    assert len(shown) == sum(d.said is DecoyReply.YES for one in once for d in one.decoys)


def test_the_surest_yes_comes_first_with_its_image(store: Store) -> None:
    results = audited(YES)
    run = stored_run(store, "yes", results)
    wrong = [d for one in results for d in one.decoys if d.said is DecoyReply.YES]
    shown = store.decoys.answered_yes(run.id, 100)
    assert sorted(one.decoy.answer.p_yes for one in shown) == sorted(d.answer.p_yes for d in wrong)
    assert [one.decoy.answer.p_yes for one in shown] == sorted(
        (d.answer.p_yes for d in wrong), reverse=True
    )
    by_name = {one.name: one for one in results}
    for one in shown:
        assert one.decoy in by_name[one.image].decoys
        assert (one.width, one.height) == (40, 30) and store.blobs.has(one.sha256)
    assert len(store.decoys.answered_yes(run.id, 2)) == 2
    with pytest.raises(NotFound):
        store.decoys.counts(99)


def test_a_result_that_is_there_already_adds_no_decoys(store: Store, monkeypatch) -> None:
    results = audited()
    run = stored_run(store, "first", results)
    before = rows(store, decoys)
    kept = store.results.page(run.id)
    again = [(one.item_id, one.image_id, made) for one, made in zip(kept, results, strict=True)]
    with store.database.writing() as connection:
        assert store.results.add(connection, run, again) == 0
    assert rows(store, decoys) == before
    # A second server that was faster, in a transaction which the first query did not see.
    other = stored_run(store, "other", [labelled("x")])
    (item,) = store.results.page(other.id)
    (made,) = [one for one in results if one.name == kept[0].labelled.name]
    real = results_module.insert_new

    def slower(connection, table, new):
        number = connection.execute(select(func.min(evidence.c.id))).scalar_one()
        judgements = item.labelled.judgements
        row = decision_row(run, item.item_id, item.image_id, number, judgements)
        connection.execute(insert(table), [row])
        return real(connection, table, new)

    monkeypatch.setattr(results_module, "insert_new", slower)
    assert made.decoys
    with store.database.writing() as connection:
        late = [(item.item_id, item.image_id, made)]
        assert store.results.add(connection, run, late) == 0
    assert rows(store, decoys) == before


def test_forgetting_a_run_forgets_its_decoys_and_no_others(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(retention_module, "MIN_AGE_S", -1.0)
    results = audited()
    settled_job(store, "first", results)
    settled_job(store, "second", results[:3])
    both = rows(store, decoys)
    forget(store, Retention(runs=("first",)))
    kept = store.decoys.counts(store.results.run("second").id)
    assert kept == expected(results[:3]) and rows(store, decoys) == kept.total() < both
    forget(store, Retention(runs=("second",)))
    assert rows(store, decoys) == rows(store, images) == 0


def test_a_run_decided_again_has_the_decoys_of_the_run_it_decided(store: Store) -> None:
    run = stored_run(store, "first", audited())
    with store.database.writing() as connection:
        create_run(connection, "again", "redecide", run.ontology, run.settings, run)
    again = store.results.run("again")
    assert store.decoys.source(again).id == run.id == store.decoys.source(run).id


def test_check_finds_decoys_that_cannot_be_read(store: Store) -> None:
    settled_job(store, "first", audited())
    assert [str(one) for one in check(store)] == []
    with store.database.writing() as connection:
        low, high, third = connection.execute(
            select(decoys.c.id).order_by(decoys.c.id).limit(3)
        ).scalars()
        for number, values in (
            (low, {"kind": "guess"}),
            (high, {"x2": 4000.0}),
            (third, {"class_name": "wolf", "p_yes": 0.5}),
        ):
            connection.execute(update(decoys).where(decoys.c.id == number).values(values))
    found = [str(one) for one in check(store)]
    assert len(found) == 3 and all("decoy" in one for one in found)
    assert "'guess'" in found[0] and "not inside" in found[1] and "'wolf'" in found[2]


def test_a_backup_has_the_decoys(store: Store, tmp_path: Path) -> None:
    run = stored_run(store, "first", audited())
    back_up(store, tmp_path / "backup")
    with open_store(tmp_path / "backup") as copy:
        assert copy.decoys.counts(copy.results.run("first").id) == store.decoys.counts(run.id)
