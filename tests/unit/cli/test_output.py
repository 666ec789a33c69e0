"""What is printed: no name from elsewhere moves the cursor, ends a line or turns its direction."""

import io
import json
import logging
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

import secondlook
from secondlook.cli import output, run
from secondlook.config.terminal import TerminalFormatter, echo, printable
from secondlook.server.json_logs import JsonFormatter

EVIL = "a\x1b[31m\x1b]0;owned\x07\r\n\u202egpj.\u2066\x9b2J\u2028\x7f\udcff [bold]b[/bold]"
HARMLESS = "Straße/écran 1.PNG 图片 صورة 👨‍👩‍👧 नमस्ते\u00a0x می‌خواهم"


def is_safe(text: str, *, lines: bool = False) -> bool:
    allowed = "\n" if lines else ""
    unsafe = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {"LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return unsafe <= set(allowed) and turning.isdisjoint(map(unicodedata.bidirectional, text))


@given(st.text())
def test_any_text_is_one_safe_line(text: str) -> None:
    shown = printable(text)
    assert is_safe(shown)
    assert printable(shown) == shown


def test_names_in_any_script_stay_as_they_are() -> None:
    assert printable(HARMLESS) == HARMLESS


def test_what_was_hidden_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"failed: {EVIL}")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and is_safe(printed[:-1])
    assert r"a\x1b[31m" in printed and r"\u202egpj." in printed and r"\udcff" in printed


def test_tables_and_facts_have_a_safe_line_for_each_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = output.table("name\x1b[2J", "count", right=["count"])
    rows.add_row(Text(EVIL, style="bold"), "1")
    rows.add_row(EVIL, "2")
    screen = output.console()
    screen.print(rows)
    screen.print(f"\nlook at {EVIL}", style="red")
    screen.print(Text(f"\n{EVIL}", style="bold"))
    output.print_facts({EVIL: EVIL, "other": HARMLESS})
    printed = capsys.readouterr().out
    assert is_safe(printed, lines=True)
    assert len(printed.split("\n")) == 3 + 2 + 2 + 2 + 1
    assert "[bold]b[/bold]" in printed and HARMLESS in printed


def test_progress_is_safe_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PLAIN_EVERY_S", 0.0)
    with output.bar(EVIL, 10) as step:
        step(5, 10)
    assert is_safe(capsys.readouterr().err, lines=True)


def test_errors_are_one_safe_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["check", "--data", str(tmp_path / EVIL.replace("/", ""))]) == 2
    assert run([f"no such command {EVIL}"]) == 2
    printed = capsys.readouterr().err
    assert is_safe(printed, lines=True) and r"\u202e" in printed


@pytest.mark.parametrize(
    "formatter", [TerminalFormatter("%(levelname)s %(message)s"), JsonFormatter()]
)
def test_a_log_record_is_one_safe_line(formatter: logging.Formatter) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    handler.emit(logging.makeLogRecord({"msg": "refused %s", "args": (EVIL,), "stream": EVIL}))
    line = out.getvalue()
    assert line.count("\n") == 1 and is_safe(line[:-1])
    if isinstance(formatter, JsonFormatter):
        plain = json.loads(line)
        assert plain["message"] == f"refused {EVIL}" and plain["stream"] == EVIL


def test_a_traceback_keeps_its_lines_and_is_safe() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    text = TerminalFormatter().format(record)
    assert text.count("\n") >= 3 and is_safe(text, lines=True)


def test_commands_print_nothing_on_their_own() -> None:
    """Everything goes through ``config.terminal`` or the console and tables of ``cli.output``."""
    package = Path(secondlook.__file__).parent
    for path in [*(package / "cli").glob("*.py"), *(package / "edge").glob("*.py")]:
        own = r"click\.s?echo\(|(?<![\w.])print\(|Console\(|(?<!Printable)Table\("
        found = re.findall(own, path.read_text())
        assert not found or path.name == "output.py", f"{path.name}: {found}"


@pytest.mark.parametrize("program", ["secondlook.cli", "secondlook.edge.cli"])
def test_what_a_command_writes_is_for_its_user_only(tmp_path: Path, program: str) -> None:
    code = (
        f"import sys, os; from {program} import main\n"
        "try: main(['--help'])\n"
        "finally: os.makedirs(sys.argv[1]); open(sys.argv[1] + '/f', 'w').close()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, umask=0o022)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "out" / "f").stat().st_mode & 0o777 == 0o600
