"""What one setting means, which values it takes, and how text becomes one of them."""

from dataclasses import dataclass, field, fields
from typing import Any

from secondlook.errors import BadSetting

LOG_LEVELS = ("debug", "info", "warning", "error")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Rule:
    """What one setting means and which values it takes."""

    default: Any
    help: str
    """One line for a person, with the unit."""
    kind: type
    """``str``, ``int``, ``float`` or ``bool``."""
    low: float | None = None
    """Least value allowed."""
    high: float | None = None
    """Greatest value allowed."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """None is allowed and means "off"."""
    as_text: bool = False
    """Whatever is given is taken as its text, such as a number in TOML."""

    def read(self, value: object, what: str) -> Any:
        """``value``, of the right type and in range; text is parsed.

        Raises ``BadSetting``; ``what`` names the setting and where the value came from.
        """
        if value is None and self.optional:
            return None
        converted = _convert(str(value) if self.as_text else value, self.kind)
        if converted is None or not self._allows(converted):
            raise BadSetting(f"{what}: expected {self.expected}, got {value!r}")
        return converted

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
        word = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        if self.low is not None and self.high is not None:
            return f"{word[self.kind]} from {self.low:g} to {self.high:g}"
        return word[self.kind] + (f" of at least {self.low:g}" if self.low is not None else "")

    @property
    def metavar(self) -> str:
        """What stands for a value in ``--help``."""
        return {int: "N", float: "X"}.get(self.kind, "TEXT")

    @property
    def help_line(self) -> str:
        """The meaning, the values allowed and the default, for ``--help``."""
        allowed = ""
        if self.choices:
            allowed = f"{', '.join(self.choices)}; "
        elif self.low is not None and self.high is not None:
            allowed = f"{self.low:g} to {self.high:g}; "
        default = "off" if self.default is None else str(self.default) or "none"
        return f"{self.help}  [{allowed}default: {default}]"


def setting(default: Any, help: str, **rule: Any) -> Any:
    """A dataclass field that carries its ``Rule``."""
    kind = rule.pop("kind", type(default))
    return field(default=default, metadata={"rule": Rule(default, help, kind, **rule)})


def rules_of(settings: Any) -> dict[str, Rule]:
    """The rule of every setting of a dataclass, in order."""
    return {f.name: f.metadata["rule"] for f in fields(settings)}


def check(settings: Any) -> None:
    """Read every value of a dataclass by its rule; for values that are given in code.

    Raises ``BadSetting``.
    """
    for name, rule in rules_of(settings).items():
        read = rule.read(getattr(settings, name), f"setting '{name}'")
        object.__setattr__(settings, name, read)


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
