"""What all tests share: few threads, hypothesis without deadlines, and the way to real data."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from memory_disk import memory_disk
from s3 import bucket_url, s3_endpoint
from stores import database_url, postgres, store, store_places

__all__ = ["bucket_url", "database_url", "postgres", "s3_endpoint", "store", "store_places"]
"""Fixtures of every test."""

ROOT = Path(__file__).parent.parent

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", parent=settings.get_profile("local"), derandomize=True, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure() -> None:
    """``tmp_path`` lies in memory, unless the caller has named another place."""
    if disk := memory_disk():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", disk)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Small models crawl on more threads than the machine has cores free."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    yield


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Commands that run in this process set how much is logged; the next test wants its own."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images: $SECONDLOOK_TEST_DATA, or ``shared/data`` beside the checkout."""
    named = os.environ.get("SECONDLOOK_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; point SECONDLOOK_TEST_DATA at a folder of images")
    return folder
