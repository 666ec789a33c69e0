"""No saved mask is lost or doubled when the server is killed while people click and save."""

import hashlib
from pathlib import Path

from frozen import photos, stored
from killed_clicks import KilledClicks

from secondlook.store import open_store

KILLS = 4


def test_masks_survive_the_death_of_the_server(tmp_path: Path) -> None:
    images = photos(2)
    with open_store(tmp_path / "data") as store:
        stored(store, "street", images)
    sha256s = [hashlib.sha256(content).hexdigest() for content in images.values()]
    trial = KilledClicks(tmp_path / "data", sha256s)
    saved = trial.run(KILLS, seed=7)
    assert saved > KILLS and trial.clicks >= 2 * saved, "nobody saved while the server was killed"
