"""The settings of the agent: flags, variables and a file."""

from pathlib import Path

import pytest

from secondlook.edge.settings import load_settings
from secondlook_client.errors import BadSetting, NotFound

ROOT = Path(__file__).parents[3]


def test_a_flag_beats_a_variable_beats_a_file(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('source = "a"\nbudget = 30\nfps = 2\nfollow = true\n')
    environ = {"SECONDLOOK_EDGE_FPS": "3", "SECONDLOOK_EDGE_BUDGET": "40", "OTHER": "x"}
    found = load_settings({"fps": "4", "seed": None}, file, environ)
    assert (found.source, found.fps, found.follow, found.selection.budget) == ("a", 4.0, True, 40)
    named = load_settings({}, None, {"SECONDLOOK_EDGE_CONFIG": str(file)})
    assert named.selection.budget == 30


def test_the_sample_settings_are_read() -> None:
    found = load_settings({}, ROOT / "deploy" / "edge.toml", {})
    assert found.model and found.server


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"fps": "fast"}, "--fps: expected a number from 0 to 1000, got 'fast'"),
        ({"budget": "lots"}, "--budget: expected a number from 0 to 1_000_000_000 or 'none'"),
        ({"budget": "nan"}, "budget"),
        ({"server": "host"}, "HOST:PORT"),
        ({"uncertain_low": "0.9"}, "low to high"),
        ({"precision": "int4"}, "one of auto, fp32, int8"),
        ({"sorce": "x"}, "did you mean 'source'?"),
    ],
)
def test_what_makes_no_sense_is_told(flags: dict[str, str], told: str) -> None:
    with pytest.raises(BadSetting) as failed:
        load_settings(flags, None, {})
    assert told in str(failed.value)


def test_a_file_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--config"):
        load_settings({}, tmp_path / "nowhere.toml", {})
    (tmp_path / "bad.toml").write_text("= =")
    with pytest.raises(BadSetting, match="TOML"):
        load_settings({}, tmp_path / "bad.toml", {})
