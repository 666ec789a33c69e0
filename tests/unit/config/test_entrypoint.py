"""Exit codes, errors in one line and Ctrl-C, for every command line alike."""

import signal
import subprocess
import sys

import click
import pytest

from secondlook.config import stop_signals
from secondlook.config.entrypoint import gentle_interrupts, run_group
from secondlook.config.stop_signals import ABANDONED, INTERRUPTED
from secondlook_client.errors import (
    AlreadyExists,
    BadSetting,
    NotAllowed,
    NotFound,
    StorageFull,
    Unavailable,
)


def group_that(raises: BaseException | None, outcome: int | None = None) -> click.Group:
    @click.group()
    @click.option("--debug", is_flag=True)
    def group(debug: bool) -> None: ...

    @group.command()
    def go() -> int | None:
        if raises:
            raise raises
        return outcome

    return group


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (BadSetting("a\n  b"), 2, "error: a b"),
        (NotFound("gone"), 2, "error: gone"),
        (NotAllowed("no"), 2, "error: no"),
        (AlreadyExists("taken"), 2, "error: taken"),
        (StorageFull("full"), 1, "error: full"),
        (Unavailable("away"), 1, "error: away"),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x'; --debug shows where it came from"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (KeyboardInterrupt("the job goes on"), INTERRUPTED, "the job goes on"),
        (click.UsageError("wrong flag"), 2, "Error: wrong flag"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    raised: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_group(group_that(raised), "program", ["go"]) == code
    assert capsys.readouterr().err.strip().splitlines()[-1] == told


def test_a_command_gives_its_own_code_and_debug_the_traceback() -> None:
    assert run_group(group_that(None, 3), "program", ["go"]) == 3
    assert run_group(group_that(None), "program", ["go"]) == 0
    with pytest.raises(KeyError):
        run_group(group_that(KeyError("x")), "program", ["--debug", "go"])


@pytest.mark.parametrize(
    ("words", "told"), [("leaving", "leaving; once more to stop at once"), ("", "")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(
    number: signal.Signals, words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with gentle_interrupts(words) as stopped:
        assert not stopped()
        signal.raise_signal(number)
        stop_signals.call_off()  # or this process would be ended in a while
        assert stopped()
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err.strip() == told


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import signal\n"
        "from secondlook.config.entrypoint import gentle_interrupts\n"
        "with gentle_interrupts():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (INTERRUPTED, b"")


def test_a_command_that_does_not_finish_is_ended() -> None:
    code = (
        "import signal, threading\n"
        "from secondlook.config import entrypoint\n"
        "entrypoint.FINISH_S = 0.3\n"
        "with entrypoint.gentle_interrupts():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == ABANDONED
    assert b"not ended 0.3 s after it was asked to" in done.stderr
