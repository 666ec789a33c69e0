"""The table of extras, against pyproject.toml."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from secondlook.config.extras import EXTRAS, check_extras, extra_of, installed, missing_extra
from secondlook_client.errors import MissingExtra

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
OF_NO_COMMAND = {"recipes"}
"""Extras for developers, who read about them."""


def declared() -> dict[str, set[str]]:
    """The packages of each extra, in lower case."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    return {
        extra: {re.split(r"[^\w.-]", one)[0].lower() for one in needed}
        for extra, needed in extras.items()
        if extra not in OF_NO_COMMAND
    }


def test_every_extra_is_in_the_table() -> None:
    assert set(EXTRAS) == set(declared())


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_modules_of_an_extra_are_those_of_its_packages(extra: str) -> None:
    packages = packages_distributions()
    covered: set[str] = set()
    for module in EXTRAS[extra]:
        brought_by = {
            name.lower().replace("_", "-") for name in packages.get(module.partition(".")[0], ())
        }
        if not brought_by:  # an extra that is not installed here
            continue
        assert brought_by & declared()[extra], module
        covered |= brought_by
    assert not covered or declared()[extra] <= covered


def test_what_is_missing_is_named_with_its_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scipy", "torch", "sqlalchemy"):
        monkeypatch.setitem(sys.modules, module, None)
    check_extras("a video", "edge")
    with pytest.raises(MissingExtra) as told:
        check_extras("a training", "serve", "distill", otherwise="ask a server")
    assert str(told.value) == (
        "a training needs packages that are not installed (torch, sqlalchemy, scipy missing); "
        'run: pip install "secondlook[serve,distill]", or ask a server'
    )
    with pytest.raises(MissingExtra, match=r'\(sqlalchemy missing\).*"secondlook\[serve\]"$'):
        check_extras("the store", "serve", only=("sqlalchemy",))
    assert 'secondlook[distill]"' in str(missing_extra("a fit", "distill"))


def test_a_module_is_looked_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert installed("this") and "this" not in sys.modules
    assert not installed("no_such_package.module")
    assert extra_of("torch") == "serve" and extra_of("no_such_package") is None
