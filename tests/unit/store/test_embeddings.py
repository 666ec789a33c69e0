"""Embeddings in the store: kept once for each model, replaced, forgotten with images, checked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from stored import image_of, labelled, stored_run

from secondlook.store import Store, open_store
from secondlook.store.backup import back_up
from secondlook.store.embeddings import (
    EmbeddedPlace,
    EmbeddingModel,
    pack_box,
    pack_vector,
    unpack_box,
    unpack_vector,
)
from secondlook.store.integrity import check
from secondlook.store.retention import Retention, forget
from secondlook.store.schema import embeddings
from secondlook_client.errors import Damaged

MODEL, OTHER = "dino@1", "dino@2"
BOX = (1.5, 2.0, 30.25, 20.0)


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def ids(store: Store) -> list[int]:
    """Two images, embedded by one model; a box of the first, too; the second by another model."""
    stored_run(store, "first", [labelled("a"), labelled("b")])
    first, second = image_of(store, "a"), image_of(store, "b")
    store.embeddings.put(
        MODEL,
        {
            EmbeddedPlace(first): unit(1, 0, 0),
            EmbeddedPlace(first, BOX): unit(0, 1, 0),
            EmbeddedPlace(second): unit(1, 2, 3),
        },
    )
    store.embeddings.put(OTHER, {EmbeddedPlace(second): unit(1, 1)})
    return [first, second]


def test_vectors_are_kept_by_image_box_and_model(store: Store, ids: list[int]) -> None:
    whole = store.embeddings.of_images(MODEL, [*ids, 999])
    assert set(whole) == {EmbeddedPlace(one) for one in ids}
    assert np.abs(whole[EmbeddedPlace(ids[1])] - unit(1, 2, 3)).max() < 1e-3
    (box,) = store.embeddings.of_images(MODEL, ids, boxes=True).items()
    assert box[0] == EmbeddedPlace(ids[0], BOX) and box[1].tolist() == [0, 1, 0]
    assert list(store.embeddings.of_images(OTHER, ids)) == [EmbeddedPlace(ids[1])]
    assert store.embeddings.of_images("nobody@1", ids) == {}
    assert store.embeddings.models() == [EmbeddingModel(MODEL, 3), EmbeddingModel(OTHER, 1)]


def test_pages_are_of_whole_images_in_order(store: Store, ids: list[int]) -> None:
    pages = [*store.embeddings.pages(MODEL, limit=1)]
    assert [one.tolist() for one, _ in pages] == [[ids[0]], [ids[1]]]
    assert [vectors.shape for _, vectors in pages] == [(1, 3), (1, 3)]
    assert [*store.embeddings.pages("nobody@1")] == []


def test_again_replaces_and_an_image_that_is_gone_is_left_out(store: Store, ids: list[int]) -> None:
    store.embeddings.put(MODEL, {EmbeddedPlace(999): unit(1, 0, 0)})
    store.embeddings.put(
        MODEL, {EmbeddedPlace(ids[0]): unit(0, 0, 1), EmbeddedPlace(998): unit(1, 0, 0)}
    )
    found = store.embeddings.of_images(MODEL, [*ids, 998, 999])
    assert len(found) == 2 and found[EmbeddedPlace(ids[0])].tolist() == [0, 0, 1]


def test_they_are_forgotten_with_their_image_and_are_in_a_backup(
    store: Store, ids: list[int], tmp_path: Path
) -> None:
    back_up(store, tmp_path / "copy", lambda done, total: None)
    with open_store(tmp_path / "copy") as copy:
        assert copy.embeddings.models() == store.embeddings.models()
    stored_run(store, "second", [labelled("b")])
    forget(store, Retention(runs=("first",)))
    assert [*check(store)] == []
    assert list(store.embeddings.of_images(MODEL, ids)) == [EmbeddedPlace(ids[1])]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"vector": b"\x00" * 6}, "not of length 1"),
        ({"vector": b"\x00\x7e" * 3}, "not of length 1"),  # NaN
        ({"vector": b"\x00" * 5}, "no number of float16"),
        ({"vector": pack_vector(unit(1, 1))}, "where others of its model have 3"),
        ({"box": b"\x00" * 3}, "box of an embedding cannot be read"),
    ],
)
def test_check_finds_what_cannot_be_read(
    store: Store, ids: list[int], change: dict[str, bytes], problem: str
) -> None:
    assert [*check(store)] == []
    with store.database.writing() as connection:
        last = connection.scalars(select(embeddings.c.id).order_by(embeddings.c.id)).all()[2]
        connection.execute(update(embeddings).where(embeddings.c.id == last).values(**change))
    (found,) = [str(one) for one in check(store)]
    assert problem in found and "secondlook select RUN --again" in found


EDGE = st.floats(0, 1e6, width=32)


@given(st.none() | st.tuples(EDGE, EDGE, EDGE, EDGE))
def test_a_box_comes_back(box: tuple[float, float, float, float] | None) -> None:
    assert unpack_box(pack_box(box)) == box


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=300))
def test_a_vector_comes_back_nearly(numbers: list[float]) -> None:
    vector = unit(*numbers, 1.0)
    assert np.abs(unpack_vector(pack_vector(vector)) - vector).max() < 1e-3


def test_what_is_no_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a vector of 1 to"):
        pack_vector(np.ones((2, 2)))
    with pytest.raises(Damaged):
        unpack_vector(b"")
