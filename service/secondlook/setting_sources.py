"""Where settings come from: default < file < environment < flag.

A file is TOML with the settings' names as keys; a variable is a prefix and the name in capitals;
a flag is ``--`` and the name with dashes.
"""

import difflib
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secondlook.errors import BadSetting, NotFound
from secondlook.setting_rules import Rule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SettingSources:
    """The places in which one program looks for its settings."""

    rules: Mapping[str, Rule]
    prefix: str
    """Of its environment variables; with CONFIG behind it, the one that names the file."""
    usual_file: Path | None = None
    """Read where no other is named, if it is there."""
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that set several settings at once; a setting given by its own name wins."""
    foreign: Callable[[str, str], bool] = lambda name, value: False
    """Whether a variable with our prefix, by its name behind that and its value, is no setting."""

    def read(
        self,
        flags: Mapping[str, object],
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The values given, the last source's of each; each was read by its rule.

        ``flags`` maps names to values, None where not given; ``environ`` is the process's
        environment unless given. Raises ``BadSetting`` for an unknown name or a value out of
        range, naming where it came from, and ``NotFound`` for a file that is named and missing.
        """
        environ = os.environ if environ is None else environ
        given = {name: value for name, value in flags.items() if value is not None}
        return {
            **self._from_file(file or self._file(environ)),
            **self._from_environment(environ),
            **self._read_all(given, lambda name: f"--{name.replace('_', '-')}"),
        }

    def _file(self, environ: Mapping[str, str]) -> Path | None:
        if named := environ.get(f"{self.prefix}CONFIG"):
            return Path(named)
        return self.usual_file if self.usual_file and self.usual_file.is_file() else None

    def _from_file(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            return {}
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as cause:
            raise NotFound(
                f"there is no settings file '{path}'; check the path given as --config"
            ) from cause
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
            raise BadSetting(f"'{path}' cannot be read as TOML: {cause}") from cause
        return self._read_all(found, lambda name: f"setting '{name}' in '{path}'")

    def _from_environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, object] = {}
        for variable, value in environ.items():
            name = variable.removeprefix(self.prefix)
            if name in (variable, "CONFIG") or self.foreign(name, value):
                continue
            if name.lower() in self._names:
                found[name.lower()] = value
            else:  # others may use the prefix too, so this is no error
                meant = self._meant(name.lower())
                log.warning("%s is not a setting and is ignored%s", variable, meant)
        return self._read_all(
            found, lambda name: f"environment variable {self.prefix}{name.upper()}"
        )

    def _read_all(self, given: Mapping[str, object], what: Callable[[str], str]) -> dict[str, Any]:
        """One source's values, each read by its rule, shorthands spelled out."""
        spelled: dict[str, Any] = {}
        for name, value in given.items():
            if name not in self._names:
                raise BadSetting(f"{what(name)} is unknown{self._meant(name)}")
            for target in self.shorthands.get(name, (name,)):
                if target == name or target not in given:
                    spelled[target] = self.rules[target].read(value, what(name))
        return spelled

    @property
    def _names(self) -> list[str]:
        return [*self.rules, *self.shorthands]

    def _meant(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._names, 1)
        return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(self._names)}"
