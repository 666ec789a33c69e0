"""How many inputs the attacks try: few in the default tests, a million by ``make attack``."""

import os

import pytest

DEFAULT_INPUTS = 10_000


@pytest.fixture(scope="session")
def inputs() -> int:
    """Inputs of all attacks together."""
    return int(os.environ.get("SECONDLOOK_ATTACK_INPUTS", DEFAULT_INPUTS))
