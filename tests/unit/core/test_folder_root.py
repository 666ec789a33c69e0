"""Nothing outside of a folder is listed or opened, whatever is swapped there."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secondlook.core.files import FolderRoot, is_below
from secondlook.core.image_folder import ImageSelection, read_image_file
from secondlook_client.errors import NotAllowed, SecondlookError

SECRET = b"not for everybody"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return rooted(tmp_path)


def rooted(top: Path) -> Path:
    """``inside/a.png`` beneath a root, and a file of the same name, size and time outside of it."""
    root = top / "root"
    for folder, content in ((root / "inside", b"of everybody here"), (top / "x", SECRET)):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content)
        os.utime(folder / "a.png", (1, 1))
    (top / "x" / "secret.png").touch()
    return root


def content_of(root: Path, name: str) -> bytes:
    with os.fdopen(FolderRoot(root).open(name), "rb") as file:
        return file.read()


def test_links_beneath_the_root_are_followed(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "up").symlink_to("../inside")
    (root / "deep" / "er" / "whole").symlink_to(root / "deep" / "up" / "a.png")
    (root / "again").symlink_to("../root/inside")
    for name in ("deep/up/a.png", "deep/er/whole", "again/a.png", "inside/../inside/a.png"):
        assert content_of(root, name) == content_of(root, "inside/a.png")


@pytest.mark.parametrize("target", ["../../x", "/", "{}", "../../root/../x"])
def test_links_and_names_that_lead_out_are_refused(root: Path, target: str) -> None:
    (root / "inside" / "out").symlink_to(target.format(root.parent / "x"))
    for name in (
        "inside/out/a.png",
        "../x/a.png",
        f"{root.parent}/x/a.png",
        "inside/../../x/a.png",
    ):
        with pytest.raises(NotAllowed, match="leads out"):
            content_of(root, name)


parts = ["..", "/..", "inside", "a.png", "out", "root", "x", *"/.~\\\0 a\n", "\udcff", "\u202e"]
names = st.lists(st.sampled_from(parts), max_size=12).map("".join)


@given(name=names)
@example("../x/a.png")
@example("/etc/passwd")
def test_no_name_opens_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    top = tmp_path_factory.getbasetemp() / "names"
    if not top.exists():
        (top / "root" / "inside").mkdir(parents=True)
        (top / "x").mkdir()
        for path in (top / "root" / "inside" / "a.png", top / "x" / "a.png", top / "a.png"):
            path.touch()
        (top / "root" / "out").symlink_to("../x")
    with suppress(SecondlookError, OSError):
        handle = FolderRoot(top / "root").open(name)
        try:
            opened = Path(f"/proc/self/fd/{handle}").readlink()
        finally:
            os.close(handle)
        assert opened.is_relative_to(top / "root")


@given(name=names)
def test_what_is_below_a_folder_is_below_it(name: str) -> None:
    if is_below(name):
        joined = os.path.normpath(f"/some/root/{name}")
        assert joined.startswith("/some/root/") and "\0" not in joined


@contextmanager
def swapped_before(
    call: int, swap: Callable[[], None], patch: pytest.MonkeyPatch
) -> Iterator[list[int]]:
    """Call ``swap`` just before the ``call``-th look at the file system; gives the looks so far."""
    looks: list[int] = []

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def looked(*given: object, **more: object) -> object:
            looks.append(len(looks) + 1)
            if looks[-1] == call:
                swap()
            return real(*given, **more)

        return looked

    with patch.context() as patched:
        for name in ("open", "stat", "lstat", "listdir", "readlink"):
            patched.setattr(os, name, counting(getattr(os, name)))
        yield looks


@pytest.mark.parametrize("link_first", [False, True])
def test_a_folder_swapped_with_a_link_at_any_moment_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link_first: bool
) -> None:
    for call in itertools.count(1):
        root = rooted(tmp_path / str(call))

        def to_link(root: Path = root) -> None:
            (root / "inside").rename(root / "aside")
            (root / "inside").symlink_to(root.parent / "x")

        def to_folder(root: Path = root) -> None:
            (root / "inside").unlink()
            (root / "aside").rename(root / "inside")

        if link_first:
            to_link()
        found = ""
        with swapped_before(call, to_folder if link_first else to_link, monkeypatch) as looks:
            for source in ImageSelection(root, (root,)).walk():
                found += f"{source.name} "
                with suppress(SecondlookError):
                    assert read_image_file(source, 100) != SECRET, f"swapped at look {call}"
        assert found and "secret" not in found
        if len(looks) < call:
            break
    assert call > 40


def test_a_root_that_becomes_a_link_is_not_followed(root: Path) -> None:
    shutil.move(root, root.parent / "aside")
    root.symlink_to(root.parent / "x")
    with pytest.raises(OSError, match="directory"):
        FolderRoot(root).names(PurePath())
    with pytest.raises((OSError, NotAllowed)):
        content_of(root, "a.png")
