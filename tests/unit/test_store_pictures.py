from secondlook.store import Store
from secondlook.store.images import NewPicture, add_pictures, measure_picture, picture_ids
from secondlook.store.schema import pictures

A, B = "aa" * 32, "0b" * 32


def test_a_content_has_one_id_however_often_it_is_added(store: Store) -> None:
    with store.database.writing() as connection:
        first = add_pictures(connection, [NewPicture(A, 10, "jpg"), NewPicture(A, 10, "jpeg")])
    with store.database.writing() as connection:
        again = add_pictures(connection, [NewPicture(B, 20, "PNG"), NewPicture(A, 10, "jpg")])
    assert list(first) == [A]
    assert again[A] == first[A] != again[B]
    with store.database.reading() as connection:
        rows = connection.execute(pictures.select().order_by(pictures.c.size)).all()
        assert picture_ids(connection, [B, "cc" * 32]) == {B: again[B]}
    assert [(row.sha256.hex(), row.size, row.format) for row in rows] == [
        (A, 10, "jpg"),
        (B, 20, "png"),
    ]


def test_more_pictures_than_one_query_takes(store: Store) -> None:
    many = [NewPicture(f"{number:064x}", number, "png") for number in range(1201)]
    with store.database.writing() as connection:
        assert len(set(add_pictures(connection, many).values())) == 1201


def test_a_picture_is_measured_once(store: Store) -> None:
    with store.database.writing() as connection:
        number = add_pictures(connection, [NewPicture(A, 10, "jpg")])[A]
        measure_picture(connection, number, 640, 480, -(2**63))
        measure_picture(connection, number, 1, 1, 5)
    with store.database.reading() as connection:
        row = connection.execute(pictures.select()).one()
    assert (row.width, row.height, row.likeness) == (640, 480, -(2**63))
