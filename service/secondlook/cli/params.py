"""Types of parameters that several commands take, and ``--server`` where there must be one."""

import math
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.config.entrypoint import Command, SectionOption, matching
from secondlook_client.addresses import (
    CA_VARIABLE,
    CERT_VARIABLE,
    DEFAULT_ADDRESS,
    KEY_VARIABLE,
    PLAIN_TOKEN_VARIABLE,
    TOKEN_FILE_VARIABLE,
)
from secondlook_client.values import BACKGROUND, EmptyReason

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

HOUR_S, DAY_S = 3600, 86400
BUCKET = re.compile("(s3a?|gs|az|abfss?)://")
"""How the URL of a bucket begins."""
AGE_UNITS_S = {"h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}


class NameList(click.ParamType):
    """Names separated by commas, each one of ``choices``."""

    name = "names"

    def __init__(self, choices: Iterable[str]) -> None:
        self._choices = tuple(choices)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names in the order given, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in self._choices:
                self.fail(f"expected one of {', '.join(self._choices)}, got '{name}'", param, ctx)
        return names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        """The last name."""
        before, comma, last = incomplete.rpartition(",")
        return matching(last, self._choices, before + comma)


class EmptyReasons(NameList):
    """Reasons for which an image is empty, separated by commas; or ``all``, or ``none``."""

    def __init__(self) -> None:
        super().__init__((*EmptyReason, "all", "none"))

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[EmptyReason, ...]:
        """The reasons in the order of their definition."""
        names = super().convert(value, param, ctx)
        if "none" in names and len(names) > 1:
            self.fail("give 'none' alone, or the reasons", param, ctx)
        return tuple(reason for reason in EmptyReason if reason in names or "all" in names)


def empty_option(what: str) -> Callable[[Command], Command]:
    """``--empty`` of a command that takes images without a label as background."""
    return click.option(
        "--empty",
        type=EmptyReasons(),
        default=",".join(BACKGROUND),
        show_default=True,
        metavar="REASON,…",
        help=f"{what} {', '.join(EmptyReason)}; all; none. Of an image on which nothing was "
        "proposed nobody knows whether an object was missed: label with --verify-empty first.",
    )


class PathOrBucket(click.Path):
    """A path, or the ``s3://bucket/prefix`` of objects, which stays a text."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A ``Path``, or the URL unchanged."""
        if isinstance(value, str) and BUCKET.match(value):
            return value
        return super().convert(value, param, ctx)


class NamedNumber(click.ParamType):
    """``NAME=NUMBER``, or a bare ``NUMBER`` if ``bare`` allows it."""

    name = "number"

    def __init__(self, example: str, *, bare: bool = False) -> None:
        """``example`` is shown when a value is refused."""
        self._example = example
        self._bare = bare

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """(name, number); the name of a bare number is empty."""
        if isinstance(value, tuple):
            return value
        name, equals, number = str(value).rpartition("=")
        try:
            if not equals and not self._bare:
                raise ValueError
            return name.strip(), float(number)
        except ValueError:
            self.fail(f"expected a number such as {self._example}, got '{value}'", param, ctx)


class PixelNumbers(click.ParamType):
    """So many numbers of pixels, separated by commas."""

    name = "pixels"

    def __init__(self, example: str) -> None:
        """``example`` has as many as are expected, and is shown when a value is refused."""
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers in the order given."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self._example.count(",") + 1 or not all(map(math.isfinite, numbers)):
            self.fail(f"expected pixels such as {self._example}, got '{value}'", param, ctx)
        return numbers


class Time(click.ParamType):
    """A date, or a date and time, with or without a time zone."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds since 1970; without a zone it is a time of this machine."""
        if isinstance(value, float):
            return value
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            self.fail(
                f"expected a time such as 2026-03-31 or 2026-03-31T18:00, got '{value}'", param, ctx
            )


class Age(click.ParamType):
    """A number of hours, days or weeks: ``12h``, ``30d``, ``8w``."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,6})([hdw])", str(value))
        if match is None:
            self.fail(f"expected an age such as 12h, 30d or 8w, got '{value}'", param, ctx)
        return float(match[1]) * AGE_UNITS_S[match[2]]


class Address(click.ParamType):
    """``HOST:PORT``."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address unchanged."""
        if value and ":" not in value:
            self.fail(f"expected HOST:PORT, got '{value}'", param, ctx)
        return str(value)


def address_option(help: str, default: str | None = None) -> Callable[[Command], Command]:
    """``--server``, and how the service is to know this client and this client the service."""
    server = click.option(
        "--server",
        type=Address(),
        default=default,
        show_default=bool(default),
        metavar="HOST:PORT",
        help=help,
    )
    return lambda command: server(_access_options(command))


def server_option(command: Command) -> Command:
    """``--server`` of a command that needs a running service."""
    help = "Address of a service that was started with --data."
    return address_option(help, DEFAULT_ADDRESS)(command)


CONNECTION = "Connection (with TLS the address is tls://HOST:PORT)"
"""Section of the options about a token and TLS."""
ACCESS_FILES = {
    "--token-file": (TOKEN_FILE_VARIABLE, "File with the secret of a token of the service."),
    "--ca": (CA_VARIABLE, "Certificates (PEM) that the service's own is checked against."),
    "--client-cert": (CERT_VARIABLE, "This client's certificate (PEM), for mutual TLS."),
    "--client-key": (KEY_VARIABLE, "Key of --client-cert (PEM)."),
}
"""Options that stand for a variable of ``secondlook_client.addresses``: its name, the help."""


def _access_options(command: Command) -> Command:
    plain = "Send the token to another machine without TLS, for everybody on the way to read."
    told = _set_variable(PLAIN_TOKEN_VARIABLE)
    command = _access_option("--plain-token", is_flag=True, callback=told, help=plain)(command)
    for name, (variable, help) in reversed(ACCESS_FILES.items()):
        file = click.Path(dir_okay=False)
        taken = _set_variable(variable)
        command = _access_option(name, type=file, metavar="FILE", callback=taken, help=help)(
            command
        )
    return command


_access_option = partial(
    click.option, cls=SectionOption, section=CONNECTION, expose_value=False, default=None
)


def _set_variable(variable: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Whatever connects while the command runs finds it there, a data loader's process too."""

    def take(ctx: click.Context, option: click.Parameter, value: str | bool | None) -> None:
        if not value or ctx.resilient_parsing:
            return
        before = os.environ.get(variable)
        os.environ[variable] = str(value)

        def restore() -> None:
            if before is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = before

        ctx.call_on_close(restore)

    return take


def limit_option(command: Command) -> Command:
    """``--limit`` of a command that lists."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=50,
        show_default=True,
        metavar="N",
        help="Maximum number of entries.",
    )(command)
