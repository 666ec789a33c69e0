"""A short day of a device: killed, cut off, given other models; nothing acknowledged is lost."""

from pathlib import Path

import pytest
from edge_trial import Trial


@pytest.mark.slow
def test_a_day_of_a_device(tmp_path: Path) -> None:
    trial = Trial(tmp_path, frames=600, kills=3, cuts=12)
    found = trial.run()
    assert (found.kills, found.cuts) == (3, 12) and found.processed >= 600
    assert (found.lost, found.vanished, found.dropped) == (0, 0, 0)
    assert found.acknowledged > 30 and found.on_server == found.spooled
    assert list(found.refused) == found.corrupt and len(found.corrupt) == 1
    assert {1, 2, 4, 5} & set(found.versions) == set(found.versions) - {0}, "never the corrupt one"
    assert found.health["model_version"] == 4, "rolled back"
    assert found.health["refused_models"] == found.refused
