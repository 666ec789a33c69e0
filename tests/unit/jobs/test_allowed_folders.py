"""Which folders of a server are named to whoever may start jobs, and which are not."""

from pathlib import Path

import pytest

from secondlook.jobs import image_source
from secondlook.jobs.image_source import allowed_folders
from secondlook_client.errors import InvalidInput, NotAllowed, NotFound


def test_only_what_may_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, secret = tmp_path / "photos", tmp_path / "secret"
    for folder in (root / "b", root / "a" / "deep", root / ".hidden", secret):
        folder.mkdir(parents=True)
    for name in ("1.jpg", "2.PNG", "notes.txt"):
        (root / name).touch()
    (root / "way out").symlink_to(secret)
    roots = (root, tmp_path / "nowhere")

    assert allowed_folders("", roots).folders == (str(root),)
    found = allowed_folders(str(root), roots)
    assert found.folders == (str(root / "a"), str(root / "b"))
    assert (found.images, found.more) == (2, False)
    assert allowed_folders(str(root / "a"), roots).folders == (str(root / "a" / "deep"),)
    for path in (secret, root / "way out", root / "a" / ".." / "..", tmp_path, tmp_path / "none"):
        with pytest.raises(NotAllowed):
            allowed_folders(str(path), roots)
    with pytest.raises(NotFound):
        allowed_folders(str(root / "1.jpg"), roots)
    for bad in ("photos", f"{root}\0"):
        with pytest.raises(InvalidInput):
            allowed_folders(bad, roots)
    monkeypatch.setattr(image_source, "MAX_FOLDERS", 1)
    assert allowed_folders(str(root), roots).more
