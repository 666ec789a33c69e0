"""One scenario, replayed by the Python, the Go and the TypeScript client, ends alike.

The suite replays it with Python and scripted models. ``make golden`` builds the other clients and
replays it with all three and the embedded models: GOLDEN names the languages then.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from flaky_line import FlakyLine
from golden_python import PythonReplayer
from golden_scenario import ProcessReplayer, Replayer, Transcript, compared, unlike
from golden_server import golden_server, images, world

from other_languages import REPLAYERS
from web.build import node_folder

__all__ = ["world"]
"""A fixture."""

LANGUAGES = os.environ.get("GOLDEN", "").split()
SCENARIO = yaml.safe_load(Path(__file__).with_name("scenario.yaml").read_text(encoding="utf-8"))


def transcript(language: str, world: Path, folder: Path) -> list[Any]:
    """What came of each step; fails at the first that is not as expected."""
    folder.mkdir()
    replayer: Replayer = PythonReplayer(folder)
    if language in REPLAYERS:
        programs = [node_folder() / "node"] if language == "ts" else []
        replayer = ProcessReplayer([*map(str, programs), str(REPLAYERS[language])])
    with (
        golden_server(world, folder / "data", bool(LANGUAGES)) as values,
        FlakyLine(values["address"]) as line,
    ):
        values |= images(world) | {"server": f"tls://{line.address}"}
        played, outcomes = Transcript(replayer, values), []
        for step in SCENARIO:
            if step["do"] == "cut":
                line.cut()
            else:
                outcomes.append(expected_outcome(played, step, language))
        replayer.close()
    return outcomes


def expected_outcome(played: Transcript, step: Mapping[str, Any], language: str) -> Any:
    """What came of a step, as far as it can be compared."""
    ends = time.monotonic() + step.get("until", 0)
    while wrong := unlike(step["expect"], got := played.play(step)):
        assert time.monotonic() < ends, f"{language}, {step['step']}: {wrong}\n{json.dumps(got)}"
        time.sleep(0.1)
    return compared(step, got)


@pytest.mark.timeout(600 if LANGUAGES else 120)
def test_every_client_gets_the_same_of_the_same_steps(world: Path, tmp_path: Path) -> None:
    languages = LANGUAGES or ["python"]
    found = {one: transcript(one, world, tmp_path / one) for one in languages}
    steps = [step["step"] for step in SCENARIO if step["do"] != "cut"]
    for language, outcomes in found.items():
        for step, got, first in zip(steps, outcomes, found[languages[0]], strict=True):
            assert got == first, f"{step}: {language} differs from {languages[0]}"
    assert len(steps) > 40
