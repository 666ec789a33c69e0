"""Which folders a client may name."""

from pathlib import Path

import pytest

from secondlook.jobs.image_source import allowed_folder
from secondlook_client.errors import InvalidInput, NotAllowed, NotFound


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "rootless").mkdir()
    return tmp_path / "root"


def test_a_root_and_what_is_in_it_may_be_read(root: Path) -> None:
    assert allowed_folder(str(root), [root]) == root
    assert allowed_folder(f"{root}/inside/", [Path("/nowhere"), root]) == root / "inside"


def test_a_link_inside_is_followed_and_one_to_the_outside_is_not(root: Path) -> None:
    (root / "alias").symlink_to(root / "inside")
    (root / "escape").symlink_to("/")
    assert allowed_folder(str(root / "alias"), [root]) == root / "inside"
    with pytest.raises(NotAllowed, match="--image-roots"):
        allowed_folder(str(root / "escape"), [root])


def test_a_root_may_itself_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert allowed_folder(str(tmp_path / "link" / "inside"), [tmp_path / "link"]) == root / "inside"


@pytest.mark.parametrize("path", ["{}/inside/../../rootless", "{}/..", "{}less", "/", "/etc"])
def test_what_is_outside_may_not_be_read(root: Path, path: str) -> None:
    with pytest.raises(NotAllowed):
        allowed_folder(path.format(root), [root])


def test_whether_a_folder_outside_exists_is_not_told(root: Path) -> None:
    message = set()
    for path in ("/etc", "/no/such/folder"):
        with pytest.raises(NotAllowed) as refusal:
            allowed_folder(path, [root])
        message.add(str(refusal.value).replace(path, ""))
    assert len(message) == 1


def test_no_root_allows_nothing(root: Path) -> None:
    with pytest.raises(NotAllowed):
        allowed_folder(str(root), [])


@pytest.mark.parametrize("path", ["", "inside", "./x", "/root\0"])
def test_only_whole_paths_are_taken(root: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="absolute"):
        allowed_folder(path, [root])


def test_a_folder_that_is_not_there_is_reported(root: Path) -> None:
    (root / "file").touch()
    for name in ("nothing", "file"):
        with pytest.raises(NotFound, match="check the path"):
            allowed_folder(str(root / name), [root])
