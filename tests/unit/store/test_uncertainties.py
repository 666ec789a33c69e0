"""Uncertainties in the store: kept, replaced, forgotten with their results, checked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from stored import labelled, stored_run

from secondlook.store import Store, open_store
from secondlook.store.backup import back_up
from secondlook.store.integrity import check
from secondlook.store.retention import Retention, forget
from secondlook.store.schema import uncertainties
from secondlook.store.uncertainties import (
    MethodCount,
    pack_uncertainties,
    uncertainties_at,
    unpack_uncertainties,
)
from secondlook_client.errors import Damaged
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod

COMMITTEE, MONTE_CARLO = UncertaintyMethod.COMMITTEE, UncertaintyMethod.MONTE_CARLO


def one(value: float, method: str = COMMITTEE, reason: str = "because") -> LabelUncertainty:
    return LabelUncertainty(method, value, 1 - value, reason, {"student": (value,)})


def cursors(store: Store, run: str) -> list[int]:
    return [result.cursor for result in store.results.page(store.results.run(run).id)]


@pytest.fixture
def measured(store: Store) -> list[int]:
    """The cursors of two results, the first measured by two methods."""
    stored_run(store, "first", [labelled("a"), labelled("b")])
    first, second = cursors(store, "first")
    store.uncertainties.put(COMMITTEE, "student x", {first: {2: one(0.25)}, second: {}})
    store.uncertainties.put(MONTE_CARLO, "again", {first: {0: one(0.75, MONTE_CARLO)}})
    return [first, second]


def test_what_was_measured_is_there_by_result_method_and_place(
    store: Store, measured: list[int]
) -> None:
    first, second = measured
    known = store.uncertainties.of_results(measured)
    assert list(known[first]) == [MONTE_CARLO, COMMITTEE] and known[second] == {COMMITTEE: {}}
    assert uncertainties_at(known[first], 2) == (one(0.25),)
    assert uncertainties_at(known[first], 0) == (one(0.75, MONTE_CARLO),)
    assert list(store.uncertainties.of_results(measured, COMMITTEE)[first]) == [COMMITTEE]
    assert store.uncertainties.sources(COMMITTEE, measured) == {
        first: "student x",
        second: "student x",
    }
    assert store.uncertainties.methods(store.results.run("first").id) == [
        MethodCount(MONTE_CARLO, "again", 1),
        MethodCount(COMMITTEE, "student x", 2),
    ]


def test_measured_again_replaces_and_a_result_that_is_gone_is_left_out(
    store: Store, measured: list[int]
) -> None:
    first, second = measured
    store.uncertainties.put(COMMITTEE, "student y", {first: {2: one(0.5)}, 999: {0: one(1)}})
    known = store.uncertainties.of_results([first, second, 999], COMMITTEE)
    assert known == {first: {COMMITTEE: {2: one(0.5)}}, second: {COMMITTEE: {}}, 999: {}}
    sources = store.uncertainties.sources(COMMITTEE, [first, second, 999])
    assert sources == {first: "student y", second: "student x"}


def test_results_are_forgotten_with_their_uncertainties(store: Store, measured: list[int]) -> None:
    stored_run(store, "second", [labelled("a")])
    (kept,) = cursors(store, "second")
    store.uncertainties.put(COMMITTEE, "x", {kept: {0: one(0.5)}})
    forget(store, Retention(runs=("first",)))
    assert [*check(store)] == []
    known = store.uncertainties.of_results([*measured, kept])
    assert [bool(found) for found in known.values()] == [False, False, True]


def test_a_backup_has_them(store: Store, measured: list[int], tmp_path: Path) -> None:
    back_up(store, tmp_path / "copy", lambda done, total: None)
    with open_store(tmp_path / "copy") as copy:
        assert copy.uncertainties.of_results(measured) == store.uncertainties.of_results(measured)


def test_check_finds_what_cannot_be_read(store: Store, measured: list[int]) -> None:
    assert [*check(store)] == []
    with store.database.writing() as connection:
        first, second, _ = connection.scalars(select(uncertainties.c.id)).all()
        broken = update(uncertainties)
        connection.execute(broken.where(uncertainties.c.id == first).values(content=b"\x01no"))
        connection.execute(broken.where(uncertainties.c.id == second).values(method="guess"))
    found = [str(one) for one in check(store)]
    assert len(found) == 2 and all("secondlook uncertainty RUN --again" in one for one in found)
    assert "unknown method 'guess'" in found[1]


FINITE = st.floats(0, 1).map(lambda value: round(value, 4))
ONE = st.builds(
    LabelUncertainty,
    st.just(COMMITTEE),
    FINITE,
    FINITE,
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), st.lists(FINITE, max_size=4).map(tuple), max_size=3),
)


@given(st.dictionaries(st.integers(0, 9999), ONE, max_size=5))
def test_packing_comes_back(found: dict[int, LabelUncertainty]) -> None:
    assert unpack_uncertainties(COMMITTEE, pack_uncertainties(found)) == found


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_value_out_of_bounds_is_damage(value: float) -> None:
    with pytest.raises(Damaged, match="in \\[0, 1\\]"):
        unpack_uncertainties(COMMITTEE, pack_uncertainties({0: one(value)}))


@given(st.binary(max_size=60))
def test_any_bytes_are_damage_or_uncertainties(content: bytes) -> None:
    try:
        unpack_uncertainties(MONTE_CARLO, content)
    except Damaged as damage:
        assert str(damage)
