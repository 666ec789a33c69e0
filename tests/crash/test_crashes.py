"""Killed a few times at random moments: nothing is lost and nothing is there twice.

``python -m bench crashes`` does the same a hundred times.
"""

from pathlib import Path

import pytest
from crash_faults import disturb
from crash_trial import Trial


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_by_crashes(tmp_path: Path, database_url: str) -> None:
    trial = Trial(tmp_path, database_url, images=120, frames=120)
    trial.run(kills=4, seed=1)
    assert len(trial.received) == 120


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_while_the_store_fails(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> None:
    trial = Trial(tmp_path, database_url, images=120, frames=120, pause_s=0.03)
    server = request.getfixturevalue("postgres") if database_url else None
    disturb(trial, count=5, seed=1, postgres=server)
    assert len(trial.received) == 120
