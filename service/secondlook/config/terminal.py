"""Text for a terminal: nothing in it moves the cursor, ends its line or changes its order.

Names come from files, servers and manifests of others, and messages repeat them. Everything that
is printed or logged goes through here, so that no name can hide or imitate a line of ours.
"""

import json
import logging
import re

import click

from secondlook.config.redaction import redacted

_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls, with the escape that begins a terminal's commands
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    # invisible, or turning the direction of what follows; joiners of emoji and scripts stay
    "\u2028\u2029"  # ends of lines
    "\ud800-\udfff"  # bytes of a name that are no text
    "]"
)


def printable(text: str) -> str:
    """``text`` on one line; what a terminal would obey or hide is written as an escape."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_json(text: str) -> str:
    """JSON with the same characters as JSON escapes them; its own line breaks stay."""
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text
    )


def echo(line: str = "", *, err: bool = False, newline: bool = True) -> None:
    """Print one line on the standard output, or on the standard error.

    Without ``newline`` the line stays open, as for a question.
    """
    click.echo(printable(line), err=err, nl=newline)


def print_json(value: object, indent: int | None = None) -> None:
    """Print JSON on the standard output; every character but ASCII is written as an escape."""
    click.echo(json.dumps(value, indent=indent))


class TerminalFormatter(logging.Formatter):
    """Log lines for people, without secrets; of several lines there are only tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback's."""
        text = redacted(super().format(record))
        return "\n".join(map(printable, text.split("\n")))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line itself, whatever line breaks the message has."""
        return printable(super().formatMessage(record))
