"""Which calibrator a setting or flag names."""

from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedProposer, ScriptedVerifier

from secondlook.cli.calibrators import find_calibrator, pipeline_calibrator
from secondlook.config.settings import Settings
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.labeling.pipeline import Pipeline
from secondlook.store import open_store
from secondlook_client.errors import BadSetting, InvalidInput, NotFound

DOGS = Calibrator(("dog",), (), (), (ClassFit(1.5, ()),))


def chosen(**settings: Any) -> Calibrator | None:
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    return pipeline_calibrator(Settings().replace(**settings), pipeline, None)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dogs.json"
    path.write_text(DOGS.to_json())
    assert find_calibrator(str(path), None) == DOGS
    assert chosen(calibrator=str(path)) == DOGS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\x00\xff", "{" * 10**6])
def test_a_file_that_is_no_calibrator(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dogs.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InvalidInput, match="no calibrator that can be used"):
        find_calibrator(str(path), None)


def test_a_name_or_digest_of_a_store(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.calibrators.put(DOGS, "dogs")
        assert find_calibrator("dogs", store) == find_calibrator(DOGS.digest, store) == DOGS
        with pytest.raises(NotFound, match="no file 'cats', and no calibrator of that name"):
            find_calibrator("cats", store)
    assert chosen(calibrator="dogs", data=str(tmp_path)) == DOGS


@pytest.mark.parametrize("name", ["dogs", "a\x00b", "x" * 5000])
def test_a_name_without_a_store(name: str) -> None:
    with pytest.raises(BadSetting, match="give a file, or the store with --data"):
        find_calibrator(name, None)


def test_none_and_models_that_bring_none() -> None:
    assert chosen(calibrator="none") is None
    assert chosen(calibrator="auto") is None
