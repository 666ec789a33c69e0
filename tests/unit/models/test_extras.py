"""The moondream extra: what is said when it is not installed. The rest needs the package."""

import sys

import pytest

from secondlook.config.settings import ModelSettings
from secondlook.models import moondream, ollama, openai
from secondlook_client.errors import MissingExtra


@pytest.mark.parametrize(
    ("adapter", "package", "argument"),
    [
        (moondream, "moondream", "moondream2"),
        (ollama, "httpx", "moondream"),
        (openai, "httpx", "m@http://127.0.0.1:1/v1"),
    ],
)
def test_a_missing_extra_names_its_install_command(
    adapter: object, package: str, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'pip install "secondlook\['):
        adapter.load(argument, ModelSettings())  # type: ignore[attr-defined]
