"""The built page: it is what its source gives, small, and free of what its policy forbids.

Nothing here needs Node; ``clients/web/build.py --check`` builds anew and compares every byte.
"""

import gzip
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "clients/web"
BUILT = ROOT / "service/secondlook/server/web"
AGAIN = "the page's source changed: run `python clients/web/build.py`"


def script(name: str) -> ModuleType:
    """A script of ``clients/web``, without running it."""
    spec = importlib.util.spec_from_file_location(f"web_{name}", WEB / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_were_built_from_the_source() -> None:
    build = script("build")
    assert (BUILT / build.SOURCES).read_text().strip() == build.source_digest(), AGAIN
    for name in build.COPIED:
        assert (BUILT / name).read_bytes() == (WEB / "src" / name).read_bytes(), AGAIN


def test_another_source_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    build = script("build")
    before = build.source_digest()
    monkeypatch.setattr(build, "INPUTS", build.INPUTS[1:])
    assert build.source_digest() != before


def test_types_of_the_page_follow_the_protos() -> None:
    generate = script("generate")
    assert generate.OUT.read_text(encoding="utf-8") == generate.written(), AGAIN


def test_the_script_is_small() -> None:
    sizes = [len(gzip.compress(path.read_bytes())) for path in BUILT.glob("*.js")]
    assert 0 < sum(sizes) <= 250_000


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    page = (BUILT / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", page)
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["icon.svg", "app.css", "app.js"]
    code = (BUILT / "app.js").read_text(encoding="utf-8")
    assert not re.search(r"\beval\(|new Function\(|document\.write\(", code)
    others = {one for one in re.findall(r"https?://[\w./-]+", code) if "www.w3.org" not in one}
    assert others == set()


def test_packages_come_from_the_public_registry_by_hash() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    installed = {name: one for name, one in packages.items() if name}
    assert all("integrity" in one for one in installed.values())
    places = {one["resolved"] for one in installed.values() if "resolved" in one}
    assert all(place.startswith("https://registry.npmjs.org/") for place in places)
