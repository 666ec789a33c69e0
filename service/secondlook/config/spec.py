"""How settings are declared, and read from a file, the environment and flags.

A setting is a field of a ``SettingGroup``, declared once with its default, range, unit and help:

    @dataclass(frozen=True)
    class BatchingSettings(SettingGroup):
        title = "Batching"
        batching_window_ms: float = setting(20.0, "…", unit="ms", low=0, high=10_000)

Everything else follows from that: the checks, the errors, the lines of ``--help`` and the title
above them, the key in a TOML file and the environment variable. A group may hold other groups or
inherit from them; outside of the code the names are flat. A group is passed whole to what it
governs.
"""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from secondlook.config.redaction import redacted
from secondlook_client.errors import BadSetting, NotFound

log = logging.getLogger(__name__)

LOG_LEVELS = ("debug", "info", "warning", "error")
UNDERSCORES_FROM = 100_000
"""Where digits are grouped, so that ports are not."""
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BYTES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


@dataclass(frozen=True)
class SettingSpec:
    """What one setting means and which values it takes."""

    default: Any
    help: str
    """A sentence for a person."""
    kind: type
    """``str``, ``int``, ``float`` or ``bool``."""
    unit: str = ""
    """Of a number, such as ``s`` or ``pixels``, or what a text is, such as ``folder``; stands for
    the value in ``--help``. Numbers of ``bytes`` are written and read like ``64 MiB`` too."""
    low: float | None = None
    """Least value allowed."""
    high: float | None = None
    """Greatest value allowed."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """None is allowed and means "off"."""
    words: Mapping[str, float] = field(default_factory=dict)
    """Words that stand for numbers, whatever the range; such as ``none`` for infinity."""
    plugins: str = ""
    """Group of entry points whose names are values."""
    common: bool = False
    """Listed first in ``--help``, before the titles of groups."""

    def read(self, value: object, source: str) -> Any:
        """``value``, of the right type and in range; text is parsed.

        Raises ``BadSetting``; ``source`` names the setting and where the value came from.
        """
        if value is None and self.optional:
            return None
        if value in self.words.values():
            return value
        if isinstance(value, str) and value.strip().lower() in self.words:
            return self.words[value.strip().lower()]
        converted = _convert(self._in_bytes(value), self.kind)
        if converted is None or not self._allows(converted):
            raise BadSetting(f"{source}: expected {self.expected}, got {redacted(repr(value))}")
        return converted

    def _in_bytes(self, value: object) -> object:
        """A number of bytes for a text such as ``64 MiB``, where that is the unit."""
        if self.unit != "bytes" or not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d{1,12}) ?([KMG]iB)", value.strip())
        return int(match[1]) * _BYTES[match[2]] if match else value

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        low, high = self.low, self.high
        return (low is None or value >= low) and (high is None or value <= high)

    @property
    def expected(self) -> str:
        """The values allowed, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        expected = _KINDS[self.kind] + (f" {self.range}" if self.range else "")
        return " or ".join([expected, *map(repr, list(self.words)[:1])])

    @property
    def range(self) -> str:
        """The least and greatest value, in words; empty for any value."""
        if self.low is not None and self.high is not None:
            return f"from {self.number(self.low)} to {self.number(self.high)}"
        return "" if self.low is None else f"of at least {self.number(self.low)}"

    @property
    def metavar(self) -> str:
        """What stands for a value in ``--help``."""
        return self.unit.upper() or {int: "N", float: "X"}.get(
            self.kind, "CHOICE" if self.choices else "TEXT"
        )

    @property
    def is_path(self) -> bool:
        """Whether the value is a file or folder of this machine."""
        return self.unit in ("file", "folder")

    @property
    def allowed(self) -> str:
        """The range or the choices as short as it goes; empty for any value."""
        words = list(self.words)[:1]
        return ", ".join(self.choices) or " or ".join([self.range.removeprefix("from "), *words])

    @property
    def help_line(self) -> str:
        """The meaning, the values allowed and the default, for ``--help``."""
        allowed = f"{self.allowed}; " if self.allowed else ""
        return f"{self.help}  [{allowed}default: {self.default_text}]"

    @property
    def default_text(self) -> str:
        """The default, for a person."""
        if isinstance(self.default, bool) or self.default is None:
            return "on" if self.default else "off"
        words = [word for word, number in self.words.items() if number == self.default]
        if self.kind in (int, float):
            return words[0] if words else self.number(self.default)
        return str(self.default) or "none"

    def number(self, value: float) -> str:
        """A number as a person reads it and as it can be given: ``64 MiB``, ``64_000_000``."""
        for name, size in _BYTES.items() if self.unit == "bytes" else ():
            if value and value % size == 0 and value < UNDERSCORES_FROM * size:
                return f"{int(value) // size} {name}"
        if value != int(value):
            return f"{value:g}"
        return f"{int(value):_}" if abs(value) >= UNDERSCORES_FROM else str(int(value))


def setting(default: Any, help: str, **spec: Any) -> Any:
    """Declare a setting: a field of a ``SettingGroup`` with its ``SettingSpec``."""
    kind = spec.pop("kind", type(default))
    return field(default=default, metadata={"spec": SettingSpec(default, help, kind, **spec)})


@dataclass(frozen=True)
class SettingGroup:
    """Settings that belong together: fields made by ``setting``, and other groups.

    Values are checked by their specs, also those given in code. Raises ``BadSetting``.
    """

    title: ClassVar[str] = ""
    """Stands above the settings of this group in ``--help`` and the documentation."""

    def __post_init__(self) -> None:
        for own in fields(self):
            if spec := own.metadata.get("spec"):
                value = spec.read(getattr(self, own.name), f"setting '{own.name}'")
                object.__setattr__(self, own.name, value)

    @classmethod
    def specs(cls) -> dict[str, SettingSpec]:
        """The spec of every setting, those of the groups inside too, in order."""
        found: dict[str, SettingSpec] = {}
        for own in fields(cls):
            if isinstance(own.default, SettingGroup):
                found |= own.default.specs()
            else:
                found[own.name] = own.metadata["spec"]
        return found

    @classmethod
    def titles(cls) -> dict[str, str]:
        """The title above every setting: that of the group inside, or inherited, that has it."""
        found: dict[str, str] = {}
        for own in fields(cls):
            if isinstance(own.default, SettingGroup):
                found |= own.default.titles()
            else:
                owner = next(each for each in cls.__mro__ if own.name in each.__annotations__)
                assert issubclass(owner, SettingGroup)
                found[own.name] = owner.title
        return found

    def replace(self, **values: Any) -> Self:
        """A copy with other values by name, wherever in the groups inside they stand."""
        groups = {}
        for own in fields(self):
            if isinstance(own.default, SettingGroup):
                inside = own.default.specs().keys() & values.keys()
                group = getattr(self, own.name)
                groups[own.name] = group.replace(**{name: values.pop(name) for name in inside})
        return replace(self, **groups, **values)


def _convert(value: object, kind: type) -> Any:
    """``value`` as ``kind``, or None when it is none; True is no number and 1.5 no count."""
    if isinstance(value, str) and kind is not str:
        return _parse(value.strip(), kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and kind is not bool:
        return None
    return value if isinstance(value, kind) else None


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None


Group = TypeVar("Group", bound=SettingGroup)


@dataclass(frozen=True)
class SettingSources(Generic[Group]):
    """The places in which one program looks for its settings: default < file < environment < flag.

    A file is TOML with the settings' names as keys; a variable is a prefix and the name in
    capitals; a flag is ``--`` and the name with dashes.
    """

    settings: type[Group]
    prefix: str
    """Of its environment variables; with CONFIG behind it, the one that names the file."""
    usual_file: Path | None = None
    """Read where no other is named, if it is there."""
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that set several settings at once; a setting given by its own name wins."""
    foreign: Callable[[str, str], bool] = lambda name, value: False
    """Whether a variable with our prefix, by its name behind that and its value, is no setting."""

    def load(
        self,
        flags: Mapping[str, object] | None = None,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
        source: Callable[[str], str] = lambda name: f"--{name.replace('_', '-')}",
    ) -> Group:
        """The settings, each from the last source that gives it.

        ``flags`` maps names to values, None where not given, and errors call them by ``source``;
        ``environ`` is the process's environment unless given. Raises ``BadSetting`` for an unknown
        name or a value out of range, naming where it came from, and ``NotFound`` for a file that is
        named and missing.
        """
        environ = os.environ if environ is None else environ
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        values = {
            **self._from_file(file or self._file(environ)),
            **self._from_environment(environ),
            **self._read_all(given, source),
        }
        return self.settings().replace(**values)

    @property
    def names(self) -> list[str]:
        """Of all settings and shorthands."""
        return [*self.settings.specs(), *self.shorthands]

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
            if name.lower() in self.names:
                found[name.lower()] = value
            else:  # others may use the prefix too, so this is no error
                meant = self._meant(name.lower())
                log.warning("%s is not a setting and is ignored%s", variable, meant)
        return self._read_all(
            found, lambda name: f"environment variable {self.prefix}{name.upper()}"
        )

    def _read_all(
        self, given: Mapping[str, object], source: Callable[[str], str]
    ) -> dict[str, Any]:
        """One source's values, each read by its spec, shorthands spelled out."""
        specs, spelled = self.settings.specs(), dict[str, Any]()
        for name, value in given.items():
            if name not in self.names:
                is_table = isinstance(value, dict)
                meant = "; settings stand outside of [tables]" if is_table else self._meant(name)
                raise BadSetting(f"{source(name)} is unknown{meant}")
            for target in self.shorthands.get(name, (name,)):
                if target == name or target not in given:
                    spelled[target] = specs[target].read(value, source(name))
        return spelled

    def _meant(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names, 1)
        return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(self.names)}"
