"""Finding images in folders that nobody tidied, or that somebody made to do harm."""

import os
import socket
from pathlib import Path

import pytest

from secondlook.core.image_folder import (
    LeftOut,
    is_hidden,
    read_image_file,
    select_images,
    tag_output,
)
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput, NotFound


def names(*paths, out="/nowhere/out"):
    return [source.name for source in select_images([Path(p) for p in paths], Path(out)).walk()]


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_images_come_sorted_by_folder_and_nothing_else_does(tmp_path):
    others = ("notes.txt", ".hidden.jpg", ".git/x.jpg")
    for name in ("b.jpg", "a/2.PNG", "a/1.jpeg", "z.tiff", *others):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a/1.jpeg", "a/2.PNG", "b.jpg", "z.tiff"]


def test_a_file_named_outright_counts_whatever_its_suffix(tmp_path):
    assert names(touch(tmp_path / "frame.bin")) == ["frame.bin"]


def test_several_sources_are_named_from_their_common_folder(tmp_path):
    one, two = touch(tmp_path / "one/x.jpg"), touch(tmp_path / "two/x.jpg")
    assert names(one.parent, two) == ["one/x.jpg", "two/x.jpg"]


def test_a_image_given_twice_is_found_once(tmp_path):
    image = touch(tmp_path / "sub/x.jpg")
    assert names(tmp_path, image, image.parent, image) == ["sub/x.jpg"]


def test_the_run_s_own_output_is_never_entered(tmp_path):
    touch(tmp_path / "x.jpg")
    touch(tmp_path / "out/yolo/images/x.jpg")
    assert names(tmp_path, out=tmp_path / "out") == ["x.jpg"]


def test_what_secondlook_wrote_is_left_out_in_any_folder(tmp_path):
    """Also where images and outputs share a folder, which is then not the tagged one."""
    touch(tmp_path / "x.jpg")
    for output in ("yolo", "deep/elsewhere/coco.part"):
        touch(tmp_path / output / "images/x.jpg")
        tag_output(tmp_path / output)
    left_out = LeftOut()
    assert [s.name for s in select_images([tmp_path], tmp_path).walk(left_out)] == ["x.jpg"]
    assert str(left_out) == "2 written by secondlook (such as coco.part)"
    assert names(tmp_path / "yolo") == []
    assert names(tmp_path / "yolo/images") == ["x.jpg"], "a folder that is named itself is taken"


CLUTTER = ("._x.jpg", ".ipynb_checkpoints/x-checkpoint.jpg", "__MACOSX/x.jpg", "@eaDir/x.jpg")


def test_hidden_files_and_what_systems_add_are_counted(tmp_path):
    for name in ("x.jpg", *CLUTTER, "a/._y.jpg", "a/$RECYCLE.BIN/y.jpg", ".DS_Store", "Thumbs.db"):
        touch(tmp_path / name)
    left_out = LeftOut()
    assert [s.name for s in select_images([tmp_path]).walk(left_out)] == ["x.jpg"]
    assert str(left_out) == "6 hidden (such as ._x.jpg)"
    assert names(tmp_path / "@eaDir") == ["x.jpg"]
    assert not str(LeftOut()) and not LeftOut()


def test_names_that_only_look_hidden_are_not():
    assert not any(map(is_hidden, (" .jpg", "x.jpg", "_x.jpg", "eaDir", "MACOSX", "#1.jpg")))


def test_links_are_followed_inside_the_folder_only(tmp_path):
    touch(tmp_path / "outside/secret.jpg")
    inside = tmp_path / "inside"
    touch(inside / "real.jpg")
    (inside / "alias.jpg").symlink_to("real.jpg")
    (inside / "escape.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (inside / "escape").symlink_to(tmp_path / "outside")
    (inside / "loop").symlink_to(inside)
    (inside / "broken.jpg").symlink_to("nowhere.jpg")
    found = {s.name: s.refusal for s in select_images([inside], tmp_path / "out").walk()}
    assert found["real.jpg"] == found["alias.jpg"] == ""
    assert "leads out" in found["escape.jpg"] and "leads out" in found["escape"]
    assert "not there" in found["broken.jpg"]
    assert len(found) == 5


def test_a_named_pipe_or_socket_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket.jpg"))
    for source in select_images([tmp_path], tmp_path / "out").walk():
        with pytest.raises(BadImage, match="not a file"):
            read_image_file(source, 1000)


def test_a_file_that_turns_into_a_pipe_does_not_block(tmp_path):
    path = touch(tmp_path / "x.jpg")
    source = next(select_images([path], tmp_path / "out").walk())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadImage, match="no longer a regular file"):
        read_image_file(source, 1000)


def test_reading_gives_the_bytes_up_to_the_limit(tmp_path):
    source = next(select_images([touch(tmp_path / "x.jpg", b"12345")], tmp_path / "out").walk())
    assert read_image_file(source, 5) == b"12345"
    with pytest.raises(ImageTooLarge, match="5 bytes; at most 4"):
        read_image_file(source, 4)
    source.path.unlink()
    with pytest.raises(BadImage, match="cannot be opened"):
        read_image_file(source, 5)


def test_very_deep_folders_are_walked(tmp_path):
    chain = [tmp_path]
    for _ in range(1200):  # deeper than Python's calls may nest
        chain.append(chain[-1] / "d")
        chain[-1].mkdir()
    image = touch(chain[-1] / "x.jpg")
    assert len(names(tmp_path)) == 1
    image.unlink()
    for folder in reversed(chain[1:]):
        folder.rmdir()


def test_strange_names_survive(tmp_path):
    strange = ["new\nline.jpg", "ночь 😀.jpg", "q'\"<>&.jpg", os.fsdecode(b"\xff\xfe.jpg"), " .jpg"]
    for name in strange:
        touch(tmp_path / name)
    assert sorted(names(tmp_path)) == sorted(strange)


def test_a_replaced_file_has_another_key(tmp_path):
    path = touch(tmp_path / "x.jpg")
    keys = [next(select_images([path], tmp_path / "out").walk()).key]
    touch(path, b"longer")
    keys.append(next(select_images([path], tmp_path / "out").walk()).key)
    os.utime(path, ns=(1, 1))
    keys.append(next(select_images([path], tmp_path / "out").walk()).key)
    assert len(set(keys)) == 3 and all(-(2**63) <= key < 2**63 for key in keys)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        names(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="no image is given"):
        names()


def test_a_folder_that_cannot_be_read_fails_alone(tmp_path, monkeypatch):
    touch(tmp_path / "x.jpg")
    (tmp_path / "locked").mkdir()
    opened = os.open

    def refusing(name, *how, **where):
        if name == "locked":
            raise PermissionError(13, "Permission denied")
        return opened(name, *how, **where)

    monkeypatch.setattr(os, "open", refusing)  # the tests may run as root, whom nothing stops
    found = {s.name: s.refusal for s in select_images([tmp_path], tmp_path / "out").walk()}
    assert found == {"locked": "the folder cannot be read: Permission denied", "x.jpg": ""}


def test_a_image_that_nothing_reads_is_refused_and_not_passed_over(tmp_path):
    for name in ("a.HEIC", "b.avif", "c.mov"):
        touch(tmp_path / name)
    found = {s.name: s.refusal for s in select_images([tmp_path]).walk()}
    assert found == {
        "a.HEIC": "HEIC is not read; convert it to JPEG",
        "b.avif": "AVIF is not read; convert it to JPEG",
    }
    named = next(select_images([tmp_path / "a.HEIC"]).walk())
    assert not named.refusal, "a file named outright is judged by its bytes"
