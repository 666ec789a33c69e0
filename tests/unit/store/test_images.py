from secondlook.store import Store
from secondlook.store.images import (
    ImageMeasurement,
    NewImage,
    add_images,
    image_ids,
    measure_images,
)
from secondlook.store.schema import images

A, B = "aa" * 32, "0b" * 32


def test_a_content_has_one_id_however_often_it_is_added(store: Store) -> None:
    with store.database.writing() as connection:
        first = add_images(connection, [NewImage(A, 10, "jpg"), NewImage(A, 10, "jpeg")])
    with store.database.writing() as connection:
        again = add_images(connection, [NewImage(B, 20, "PNG"), NewImage(A, 10, "jpg")])
    assert list(first) == [A]
    assert again[A] == first[A] != again[B]
    with store.database.reading() as connection:
        rows = connection.execute(images.select().order_by(images.c.size)).all()
        assert image_ids(connection, [B, "cc" * 32]) == {B: again[B]}
    assert [(row.sha256.hex(), row.size, row.format) for row in rows] == [
        (A, 10, "jpg"),
        (B, 20, "png"),
    ]


def test_more_images_than_one_query_takes(store: Store) -> None:
    many = [NewImage(f"{number:064x}", number, "png") for number in range(1201)]
    with store.database.writing() as connection:
        assert len(set(add_images(connection, many).values())) == 1201


def test_a_image_is_measured_once(store: Store) -> None:
    with store.database.writing() as connection:
        number = add_images(connection, [NewImage(A, 10, "jpg")])[A]
        measure_images(connection, [ImageMeasurement(number, 640, 480, -(2**63))])
        measure_images(connection, [ImageMeasurement(number, 1, 1, 5)])
    with store.database.reading() as connection:
        row = connection.execute(images.select()).one()
    assert (row.width, row.height, row.perceptual_hash) == (640, 480, -(2**63))
