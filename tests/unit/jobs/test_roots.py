"""Which folders a client may name."""

from pathlib import Path

import pytest

from secondlook.core.errors import InvalidInput, NotAllowed, NotFound
from secondlook.jobs.image_source import allowed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "rootless").mkdir()
    return tmp_path / "root"


def test_a_root_and_what_is_in_it_may_be_read(root: Path) -> None:
    assert allowed(str(root), [root]) == root
    assert allowed(f"{root}/inside/", [Path("/nowhere"), root]) == root / "inside"


def test_a_link_inside_is_followed_and_one_to_the_outside_is_not(root: Path) -> None:
    (root / "alias").symlink_to(root / "inside")
    (root / "escape").symlink_to("/")
    assert allowed(str(root / "alias"), [root]) == root / "inside"
    with pytest.raises(NotAllowed, match="--allow-root"):
        allowed(str(root / "escape"), [root])


def test_a_root_may_itself_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert allowed(str(tmp_path / "link" / "inside"), [tmp_path / "link"]) == root / "inside"


@pytest.mark.parametrize("path", ["{}/inside/../../rootless", "{}/..", "{}less", "/", "/etc"])
def test_what_is_outside_may_not_be_read(root: Path, path: str) -> None:
    with pytest.raises(NotAllowed):
        allowed(path.format(root), [root])


def test_whether_a_folder_outside_exists_is_not_told(root: Path) -> None:
    said = set()
    for path in ("/etc", "/no/such/folder"):
        with pytest.raises(NotAllowed) as refusal:
            allowed(path, [root])
        said.add(str(refusal.value).replace(path, ""))
    assert len(said) == 1


def test_no_root_allows_nothing(root: Path) -> None:
    with pytest.raises(NotAllowed):
        allowed(str(root), [])


@pytest.mark.parametrize("path", ["", "inside", "./x", "/root\0"])
def test_only_whole_paths_are_taken(root: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="absolute"):
        allowed(path, [root])


def test_a_folder_that_is_not_there_is_said_so(root: Path) -> None:
    (root / "file").touch()
    for name in ("nothing", "file"):
        with pytest.raises(NotFound, match="check the path"):
            allowed(str(root / name), [root])
