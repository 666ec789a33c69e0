"""Results by the order of the folder, whatever order they came in."""

from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import judged, result
from traced_memory import traced_memory

from secondlook.cli.label import FetchedResults
from secondlook_client.errors import Damaged, StorageFull
from secondlook_client.values import JobResult

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=30)


def named(name: str):
    return replace(result(judged("dog")), name=name)


@given(keys=KEYS, data=st.data())
def test_results_come_in_the_order_of_the_keys(tmp_path_factory, keys, data):
    fetched = FetchedResults(tmp_path_factory.mktemp("out"), array("q", keys))
    arrived = data.draw(st.permutations(keys)) if keys else []
    kept = arrived[: data.draw(st.integers(0, len(keys)))]
    for key in kept:
        fetched.add(JobResult(0, key, named(str(key))))
    wanted = [str(key) for key in keys if key in kept]
    for _ in range(2):  # as often as a format needs
        assert [name for name, _ in fetched.results()] == wanted


def test_results_of_images_that_have_gone_are_left_out(tmp_path):
    fetched = FetchedResults(tmp_path, array("q", [5, -3]))
    for key in (5, 6, -3):
        fetched.add(JobResult(0, key, named(str(key))))
    assert [name for name, _ in fetched.results()] == ["5", "-3"]
    assert -3 in fetched and 6 not in fetched


def test_the_cursors_are_in_the_order_of_the_results(tmp_path):
    fetched = FetchedResults(tmp_path, array("q", [5, 8, -3]))
    for cursor, key, hashed in ((70, -3, None), (71, 6, 1), (72, 5, -9)):
        fetched.add(JobResult(cursor, key, named(str(key)), 1000.0 - cursor, hashed))
    found = zip(fetched.results(), fetched.cursors(), fetched.hashes(), strict=True)
    assert [(name, *more) for (name, _), *more in found] == [("5", 72, -9), ("-3", 70, None)]
    assert fetched.newest == 930.0


def test_nothing_is_lost_of_a_result(tmp_path):
    fetched = FetchedResults(tmp_path, array("q", [1]))
    whole = named("новый.jpg")
    fetched.add(JobResult(0, 1, whole))
    assert list(fetched.results()) == [("новый.jpg", whole)]


def test_names_that_are_no_text_are_themselves_again(tmp_path):
    fetched = FetchedResults(tmp_path, array("q", [1, 2]))
    fetched.add(JobResult(0, 1, named("a\\xff.jpg")))
    fetched.add(JobResult(0, 2, named("a\\\\b.jpg")))
    assert [name for name, _ in fetched.results()] == ["a\udcff.jpg", "a\\b.jpg"]


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "", "..", "a\0.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    fetched = FetchedResults(tmp_path, array("q", [1]))
    with pytest.raises(Damaged, match="never sent"):
        fetched.add(JobResult(0, 1, named(name)))
    assert list(fetched.results()) == []


def test_it_leaves_no_file_behind(tmp_path):
    fetched = FetchedResults(tmp_path, array("q", [1]))
    fetched.add(JobResult(0, 1, named("a")))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    fetched = FetchedResults(tmp_path, array("q", [1]))

    class Full:
        def seek(self, *_):
            return 0

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetched, "_file", Full())
    with pytest.raises(StorageFull, match="make room and run the same command again"):
        fetched.add(JobResult(0, 1, named("a")))


def test_reading_takes_no_memory_for_each_image(tmp_path):
    count = 20_000
    fetched = FetchedResults(tmp_path, array("q", range(count)))
    fetched.add(JobResult(0, count - 1, named("last")))
    with traced_memory() as memory:
        assert [name for name, _ in fetched.results()] == ["last"]
        assert list(zip(fetched.cursors(), fetched.hashes(), strict=True)) == [(0, None)]
    assert memory.peak < 5 * count
