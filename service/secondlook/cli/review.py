"""``secondlook review``: people say which labels are right; their word outranks every model.

The commands first, then the loop that asks, then what is printed. Each works on a service, on a
store, or on the folder of a run of `secondlook label`.
"""

import getpass
import shlex
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import bar, console, counted, local_time, share, table
from secondlook.cli.params import address_option
from secondlook.cli.store import opened_store, store_options
from secondlook.config.entrypoint import Command, CommandGroup, gentle_interrupts
from secondlook.config.stop_signals import INTERRUPTED
from secondlook.config.terminal import echo, print_json, printable
from secondlook_client.errors import (
    AlreadyExists,
    BadSetting,
    Damaged,
    InvalidInput,
    LostLease,
    NotFound,
    SecondlookError,
)
from secondlook_client.values import (
    Outcome,
    Review,
    ReviewAnswer,
    ReviewOrder,
    WrongReason,
)

if TYPE_CHECKING:
    from secondlook.review.local_reviews import LocalReviews
    from secondlook.review.oracle import Oracle
    from secondlook.store import Store
    from secondlook_client.reviews import RemoteReviews
    from secondlook_client.values import ReviewItem, ReviewQueue

ORACLE_AT_ONCE = 100
"""Boxes that a truth file answers between two requests for more."""
ANSWER_KEYS = {
    "y": ReviewAnswer.RIGHT,
    "n": ReviewAnswer.WRONG,
    "u": ReviewAnswer.UNSURE,
}
REASON_KEYS = {
    "c": WrongReason.CLASS,
    "o": WrongReason.OUTLINE,
    "d": WrongReason.DUPLICATE,
    "t": WrongReason.NOTHING_THERE,
}
HELP = (
    "y  right: it is what the class says, and the box has most of it, and little else",
    "n  wrong: you are then asked why",
    "u  unsure: you cannot tell from this picture",
    "b  go back: take your last answer back, and answer again",
    "q  quit: all answers are kept; the same command goes on here",
)
ASK = "     y right   n wrong   u unsure   b back   q quit   ? help > "
WHY = (
    "     why?  c another class   o badly outlined   d second box of one object   "
    "t nothing there   Enter not said   b back > "
)
ANSWERED = {
    ReviewAnswer.RIGHT: "right",
    ReviewAnswer.WRONG: "wrong",
    ReviewAnswer.UNSURE: "unsure",
    ReviewAnswer.MISSING: "missing",
    ReviewAnswer.COMPLETE: "complete",
}


@click.group("review", cls=CommandGroup)
def review_command() -> None:
    """Say which labels are right: what a person says outranks every model.

    `start` chooses boxes of a run and puts them into a queue, `ask` shows one after the other and
    takes one key for an answer. Several people can answer one queue at the same time: nobody gets
    the box of another. Answers count at once, wherever labels are read; `undo` takes one back.

    A FOLDER is the --out of `secondlook label`. Without it --data names a store, or --server a
    service that was started with --data.
    """


def place_options(command: Command) -> Command:
    """``[FOLDER]``, ``--server`` and the options of a store: where the reviews are."""
    folder = click.argument("folder", required=False, type=click.Path(path_type=Path))
    return folder(server_and_store(command))


def server_and_store(command: Command) -> Command:
    """``--server`` and the options of a store."""
    server = address_option("Address of a service that was started with --data.")
    return server(store_options(command))


person_option = click.option(
    "--person", metavar="NAME", default="", help="Who answers.  [default: your login name]"
)


@contextmanager
def opened_reviews(
    folder: Path | None, server: str | None, flags: dict[str, Any], *, writes: bool = False
) -> "Iterator[RemoteReviews | LocalReviews]":
    """The reviews of a service, of the run in ``folder``, or of the store that ``flags`` name.

    ``writes``: the files of the run in ``folder`` will no longer say what the store does.
    """
    if sum(map(bool, (folder, server, flags.get("data")))) > 1:
        raise click.UsageError("give only one of FOLDER, --data and --server")
    if server:
        from secondlook_client import Client

        with Client(server) as client:
            yield client.reviews
        return
    if folder:
        from secondlook.cli.output_folder import FINISHED, store_of
        from secondlook.core.files import remove

        flags["data"] = str(store_of(folder))
        if writes:
            remove(folder / FINISHED)
    try:
        store = opened_store(flags)
    except click.UsageError as missing:
        raise click.UsageError(
            "say where the labels are: FOLDER (the --out of `secondlook label`), --data or --server"
        ) from missing
    with store:
        from secondlook.review.local_reviews import LocalReviews

        yield LocalReviews(store)


@review_command.command(
    "start",
    examples=[
        "secondlook review start labels --count 200",
        "secondlook review start street --order uncertainty --data data",
    ],
)
@click.argument("run")
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help="Maximum number of boxes.  [default: all]"
)
@click.option(
    "--order",
    type=click.Choice([order.value for order in ReviewOrder]),
    default=ReviewOrder.RANDOM.value,
    show_default=True,
    metavar="ORDER",
    help="random: estimates need that; value: first where an answer changes most; uncertainty: "
    "first where the label is most uncertain, by the best method of `secondlook uncertainty` that "
    "measured it, else where the probability is nearest to one half; monte-carlo, committee, "
    "distribution: by that method; mixed, diversity, density, balance: image by image, as "
    "`secondlook select` chooses images, which embeds them first; keyframes: of a run with tracks, "
    "the few frames that show each and what happens to it.",
)
@click.option(
    "-c", "--class", "classes", multiple=True, metavar="CLASS", help="Only this class. Repeatable."
)
@click.option("--name", default="", metavar="QUEUE", help="Name of the queue.  [default: of RUN]")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the random order.",
)
@server_and_store
def start(
    run: str,
    count: int | None,
    order: str,
    classes: tuple[str, ...],
    name: str,
    seed: int,
    server: str | None,
    **flags: Any,
) -> None:
    """Choose boxes of RUN to ask about: a queue.

    RUN is the --out folder of `secondlook label`; or, with --data or --server, the name of a run or
    job. The same command again says how the queue stands.
    """
    where = _where(server, flags)
    folder = None if where else Path(run)
    if folder:
        from secondlook.cli.output_folder import run_in, store_of

        store_of(folder)
        run_name, name = run_in(folder), name or queue_name(folder.resolve().name)
    else:
        run_name, name = run, name or queue_name(run)
    with opened_reviews(folder, server, flags) as reviews:
        queue = reviews.create_queue(
            name,
            run_name,
            order=order,
            classes=classes,
            count=count or 0,
            seed=seed,
            reuse=True,
        )
        again = _ask_command(reviews, queue, folder, where)
    echo(f"queue '{queue.name}': {_standing(queue)}")
    if queue.answered < queue.total:
        echo(f"answer them: {again}")


def queue_name(name: str) -> str:
    """A name for the queue of a run: what a queue's name cannot have becomes a dash."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)
    return plain.strip("-_.")[:200] or "review"


@review_command.command(
    "ask",
    examples=[
        "secondlook review ask labels",
        "secondlook review ask street --data data --person ada",
        "secondlook review ask labels --oracle truth.json",
    ],
)
@click.argument("queue")
@place_options
@person_option
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("review.png"),
    show_default=True,
    help="PNG of the box that is asked about; it is overwritten for each.",
)
@click.option(
    "--blind", is_flag=True, help="Do not show what the models said, so that it sways nobody."
)
@click.option(
    "--oracle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A truth file (COCO) answers instead of a person.",
)
def ask(
    queue: str,
    folder: Path | None,
    server: str | None,
    person: str,
    picture: Path,
    blind: bool,
    oracle: Path | None,
    **flags: Any,
) -> int:
    """Answer the boxes of QUEUE, one key for each.

    QUEUE may be a folder of `secondlook label` too: then it is the queue that was made last
    there. Each answer is kept at once: Ctrl-C loses none, and the same command goes on.
    """
    where = _where(server, flags)
    if not (folder or where) and Path(queue).is_dir():
        folder, queue = Path(queue), ""
    if oracle:
        from secondlook.review.oracle import Oracle

        truth = Oracle.from_truth(oracle)
        person = person or f"oracle {oracle.name}"
    with opened_reviews(folder, server, flags, writes=True) as reviews:
        stands = reviews.queue(queue) if queue else _newest(reviews, folder)
        person = person or login_name()
        if oracle:
            return answer_by_truth(reviews, stands, truth, person)
        again = _ask_command(reviews, stands, folder, where)
        return AskLoop(reviews, stands, person, picture, blind).run(again)


def _newest(reviews: "RemoteReviews | LocalReviews", folder: Path | None) -> "ReviewQueue":
    newest = max(reviews.queues(), key=lambda queue: queue.created_at, default=None)
    if newest is None:
        raise NotFound(
            f"there is no queue in {folder} yet; begin with: secondlook review start {folder}"
        )
    return newest


def login_name() -> str:
    """Who runs this. Raises ``BadSetting`` where the system does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as failure:
        raise BadSetting("your login name is not known; say who answers with --person") from failure


@review_command.command("status")
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
def status(folder: Path | None, server: str | None, as_json: bool, **flags: Any) -> None:
    """Show all queues, and how much is answered."""
    with opened_reviews(folder, server, flags) as reviews:
        found = list(reviews.queues())
    for queue in found if as_json else ():
        print_json(vars(queue))
    if not as_json:
        _print_queues(found)


@review_command.command("remove")
@click.argument("queue")
@place_options
def remove_queue(queue: str, folder: Path | None, server: str | None, **flags: Any) -> None:
    """Remove QUEUE; its answers stay."""
    with opened_reviews(folder, server, flags) as reviews:
        reviews.delete_queue(queue)
    echo(f"removed the queue '{queue}'; its answers stay")


@review_command.command(
    "list", examples=["secondlook review list labels", "secondlook review list --data data --json"]
)
@place_options
@click.option("--run", default="", metavar="NAME", help="Only of the images of this run.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    metavar="N",
    help="Only the newest N.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
def list_reviews(
    folder: Path | None, server: str | None, run: str, limit: int, as_json: bool, **flags: Any
) -> None:
    """List who said what, the newest last."""
    with opened_reviews(folder, server, flags) as reviews:
        found = deque(reviews.list(run=run), maxlen=limit)
        names = reviews.image_names({review.image for review in found})
    for review in found if as_json else ():
        print_json(review.to_dict())
    if not as_json:
        _print_reviews(found, {sha256: name for sha256, (name, *_) in names.items()})


@review_command.command("undo", examples=["secondlook review undo 12 labels"])
@click.argument("review", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@place_options
@person_option
def undo(review: int, folder: Path | None, server: str | None, person: str, **flags: Any) -> None:
    """Take a review back.

    `list` shows the ID of each. It stays in the history, and no longer counts.
    """
    with opened_reviews(folder, server, flags, writes=True) as reviews:
        taken = reviews.undo(review, person=person or login_name())
    what = f"'{taken.class_name}'" if taken.class_name else "an image"
    echo(f"took back review {review}, which said that {what} is {ANSWERED[taken.answer]}")


@review_command.command(
    "export",
    examples=["secondlook review export reviews.jsonl labels"],
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@place_options
@click.option("--run", default="", metavar="NAME", help="Only of the images of this run.")
def export(file: Path, folder: Path | None, server: str | None, run: str, **flags: Any) -> None:
    """Write the reviews to FILE.

    As .jsonl: all that was said, by whom and when, also what was taken back; `import` reads it. As
    .json: the boxes that people found right or drew, as COCO.
    """
    from secondlook.review.review_files import write_reviews

    with opened_reviews(folder, server, flags) as reviews:
        written = write_reviews(file, reviews.list(run=run), reviews.image_names)
    echo(f"wrote {counted(written, 'review')} to {file}")


@review_command.command(
    "import",
    examples=[
        "secondlook review import reviews.jsonl labels",
        "secondlook review import corrected.json labels --outlines",
        "secondlook review import annotations.xml labels --changes-only",
    ],
)
@click.argument("file", type=click.Path(path_type=Path))
@place_options
@person_option
@click.option("--run", default="", metavar="NAME", help="Run that the annotations are about.")
@click.option(
    "--outlines",
    is_flag=True,
    help="Take outlines from a COCO file where they differ much, and its masks.",
)
@click.option(
    "--changes-only",
    is_flag=True,
    help="Of Label Studio, CVAT and FiftyOne: a box that is as it was says nothing.",
)
def import_reviews(
    file: Path,
    folder: Path | None,
    server: str | None,
    person: str,
    run: str,
    outlines: bool,
    changes_only: bool,
    **flags: Any,
) -> None:
    """Read reviews from FILE; what is here already is not kept twice.

    From .jsonl, as `export` writes it. From COCO .json with true or corrected boxes: labels of the
    run that it marks are right, others on its images are wrong, and what no label marks is missing.
    From a JSON export of Label Studio, an XML file of CVAT (for images 1.1) or a folder of
    FiftyOne: the same, with new classes, outlines and masks, and the reviews that were exported.
    """
    if server and file.suffix != ".jsonl":
        raise click.UsageError("annotations are read where the store is: give FOLDER or --data")
    with opened_reviews(folder, server, flags, writes=True) as reviews:
        person = person or login_name()
        if file.suffix in (".json", ".xml") or file.is_dir():
            if not (run or folder):
                raise click.UsageError("say with --run which run the annotations are about")
            from secondlook.cli.output_folder import run_in
            from secondlook.review.local_reviews import LocalReviews

            assert isinstance(reviews, LocalReviews)
            about = run or run_in(folder or Path())
            options = {"outlines": outlines, "changes_only": changes_only}
            added, known = _read_annotations(reviews.store, file, person, about, **options)
        else:
            from secondlook.review.review_files import read_reviews

            added, known = reviews.add_from(read_reviews(file, person))
    echo(f"{counted(added, 'new review')} from {file}; {known:,} were here already")


def _read_annotations(
    store: "Store", file: Path, person: str, run: str, *, outlines: bool, changes_only: bool
) -> tuple[int, int]:
    """Read what people left in another program; how many reviews (were new, were here already)."""
    from secondlook.datasets.corrected_sets import open_corrected
    from secondlook.review.review_files import import_annotations, import_corrections

    found = open_corrected(file)
    if not found:
        return import_annotations(store, run, file, person, outlines=outlines)
    added = known = 0
    for one in found:
        for sentence in one.warnings:
            echo(f"note: {sentence}", err=True)
        new, old = import_corrections(store, run, one, person, changes_only=changes_only)
        added, known = added + new, known + old
    return added, known


# The loop


def answer_by_truth(
    reviews: "RemoteReviews | LocalReviews", queue: "ReviewQueue", oracle: "Oracle", person: str
) -> int:
    """Answer all that is left in a queue by a truth file; the exit code."""
    counts = Counter[ReviewAnswer]()
    with (
        gentle_interrupts() as stopped,
        bar("answering", queue.total, queue.answered, "boxes") as step,
    ):
        while not stopped() and (
            items := reviews.next(queue.name, person=person, count=ORACLE_AT_ONCE)
        ):
            try:
                for item in items:
                    said = oracle.answer(item, item.judgements)
                    reviews.answer(item, said.answer, person=person, reason=said.reason)
                    counts[said.answer] += 1
            except SecondlookError:
                reviews.release(items, person=person)
                raise
            step(queue.answered + counts.total(), queue.total)
    echo(f"queue '{queue.name}': {_told(counts)}; {_standing(reviews.queue(queue.name))}")
    return INTERRUPTED if stopped() else 0


class _Quit(Exception):
    """The person has had enough."""


@dataclass
class AskLoop:
    """Asks one person about the boxes of a queue in the terminal, one after the other."""

    reviews: "RemoteReviews | LocalReviews"
    queue: "ReviewQueue"
    person: str
    picture: Path
    blind: bool = False
    answered: "list[tuple[ReviewItem, Review]]" = field(default_factory=list)
    """In this session, so that the last can be taken back."""
    held: "dict[int, ReviewItem]" = field(default_factory=dict)
    """Shown and not answered, by number."""

    def run(self, again: str) -> int:
        """Ask; the exit code. ``again`` is the command that goes on with the queue."""
        echo(f"queue '{self.queue.name}': {_standing(self.queue)}")
        echo(f"each box is drawn in {self.picture}; open it in a viewer that reloads it")
        interrupted = False
        with gentle_interrupts("") as stopped:
            try:
                self._ask_all(stopped)
            except _Quit:
                pass
            except KeyboardInterrupt:  # the key; the signal only makes `stopped` say so
                interrupted = True
            finally:
                with suppress(SecondlookError):  # then the lease ends by itself
                    self.reviews.release(self.held.values(), person=self.person)
            interrupted = interrupted or stopped()
        self._say_goodbye(again)
        return INTERRUPTED if interrupted else 0

    def _ask_all(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            items = self.reviews.next(self.queue.name, person=self.person)
            if not items:
                return
            self._ask(items[0])

    def _ask(self, item: "ReviewItem") -> None:
        """Ask about one box, until it is answered; and first about one that is taken back."""
        self.held[item.id] = item
        self._show(item)
        while True:
            key = pressed_key(ASK)
            if key == "q":
                raise _Quit
            if key == "b":
                self._go_back()
                self._show(item)
            elif key == "?":
                for line in HELP:
                    echo(f"     {line}")
            elif key in ANSWER_KEYS and self._answer(item, ANSWER_KEYS[key]):
                del self.held[item.id]
                return

    def _answer(self, item: "ReviewItem", answer: ReviewAnswer) -> bool:
        """Keep one answer; False where the person would rather give another one."""
        reason, new_class = None, ""
        if answer is ReviewAnswer.WRONG:
            key = pressed_key(WHY, "codtbq\r ")
            if key == "q":
                raise _Quit
            if key == "b":
                return False
            reason = REASON_KEYS.get(key)
            if reason is WrongReason.CLASS:
                new_class = typed_line("     which class is it? (Enter: not said) ")
        try:
            kept = self.reviews.answer(
                item, answer, person=self.person, reason=reason, new_class=new_class
            )
        except InvalidInput as refused:  # a class that the run does not have
            echo(f"     {refused}")
            return False
        except (AlreadyExists, LostLease) as lost:  # somebody else was faster
            echo(f"     {lost}; on to the next")
            return True
        self.answered.append((item, kept))
        return True

    def _go_back(self) -> None:
        """Take the last answer of this session back, and ask about its box again."""
        if not self.answered:
            echo("     nothing to take back in this session; `secondlook review undo` does others")
            return
        item, kept = self.answered.pop()
        self.reviews.undo(kept.id, person=self.person)
        echo(f"     took back: '{item.class_name}' was {ANSWERED[kept.answer]}")
        self._ask(item)

    def _show(self, item: "ReviewItem") -> None:
        """Draw the box, and say what is asked."""
        name = item.image_name or item.image[:12]
        missing = self._draw(item, name)
        echo()
        done = self.queue.answered + len(self.answered) + 1
        echo(f"{done:,} of {self.queue.total:,}   {name}   Does the box mark: {item.class_name}?")
        if missing:
            echo(f"     there is no picture of it: {missing}")
        if not self.blind:
            for line in models_said(item):
                echo(f"     {line}")

    def _draw(self, item: "ReviewItem", name: str) -> SecondlookError | None:
        """Write the picture; why the image cannot be shown, where it cannot."""
        from secondlook.core.images import decode
        from secondlook.review.box_picture import write_box_picture

        try:
            pixels = decode(self.reviews.image(item), name).pixels
        except (InvalidInput, NotFound, Damaged) as failure:
            return failure
        others = [
            one.box
            for one in item.judgements
            if one.class_name == item.class_name and one.box != item.box
            if one.outcome is not Outcome.REJECT and not one.whole_image
        ]
        dashed = f"   dashed: other boxes of “{item.class_name}”" if others else ""
        title = printable(f"{item.class_name}?   {name}{dashed}")
        mask = item.judgement.mask if item.judgement else None
        write_box_picture(self.picture, pixels, item.box, title, others, mask)
        return None

    def _say_goodbye(self, again: str) -> None:
        counts = Counter(kept.answer for _, kept in self.answered)
        now = self.reviews.queue(self.queue.name)
        echo()
        echo(f"{_told(counts)}; {_standing(now)}")
        if now.waiting:
            echo(f"go on: {again}")


def models_said(item: "ReviewItem") -> Iterator[str]:
    """What the run made of a box, in a line or two."""
    from secondlook.evaluation.run_stats import OUTCOME_WORDS

    yield (
        f"the run: {OUTCOME_WORDS[item.outcome]}, probability {share(item.probability)} "
        f"(label {item.label_id})"
    )
    judged = item.judgement
    if judged is None:
        return
    line = f"proposer {share(judged.score)}"
    if judged.verdict:
        p_yes = f"P(yes) {share(judged.p_yes)}" if judged.p_yes is not None else "no answer"
        line += f", verifier {p_yes} to “{judged.question}”"
    yield line
    for one in item.uncertainties:
        yield f"uncertain {one.words}"


def pressed_key(prompt: str, keys: str = "ynubq?") -> str:
    """The key of ``keys`` that the person presses, in small letters; others are not heard.

    Where the input is no terminal, each line is a key, an empty one Enter. Raises
    ``KeyboardInterrupt`` for Ctrl-C, and ``_Quit`` at the end of the input.
    """
    echo(prompt, newline=False)
    while True:
        key = _next_key()
        if not key:
            echo()
            raise _Quit
        if key in keys:
            echo(key if key.isprintable() else "")
            return key


def _next_key() -> str:
    """A key; Enter is ``\r``, and empty is the end of the input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1].lower() or "\r" if line else ""
    try:
        # Of keys that are pressed in one moment the first counts: the others were not meant for a
        # box that was not shown yet.
        return click.getchar()[:1].lower()
    except EOFError:  # Ctrl-D
        return ""


def typed_line(prompt: str) -> str:
    """A line that the person types, without the spaces around it."""
    echo(prompt, newline=False)
    return sys.stdin.readline().strip()


# What is printed


def _where(server: str | None, flags: dict[str, Any]) -> list[str]:
    """The options that name a service or a store."""
    if server:
        return ["--server", server]
    names = ("data", "database_url", "blob_url", "config")
    return [
        word
        for name in names
        if flags.get(name)
        for word in (f"--{name.replace('_', '-')}", str(flags[name]))
    ]


def _ask_command(
    reviews: "RemoteReviews | LocalReviews",
    queue: "ReviewQueue",
    folder: Path | None,
    where: Sequence[str],
) -> str:
    """The command line that asks about what is left of a queue."""
    words = ["secondlook", "review", "ask"]
    if folder is None or _newest(reviews, folder).name != queue.name:
        words.append(queue.name)
    return shlex.join([*words, *([str(folder)] if folder else where)])


def _told(counts: "Counter[ReviewAnswer]") -> str:
    """``3 answers: 2 right, 1 wrong``."""
    if not counts:
        return "no answers"
    kinds = (f"{counts[answer]:,} {ANSWERED[answer]}" for answer in ReviewAnswer if counts[answer])
    return f"{counted(counts.total(), 'answer')}: {', '.join(kinds)}"


def _standing(queue: "ReviewQueue") -> str:
    """``12 of 200 boxes answered``."""
    others = f", {queue.leased:,} shown to somebody now" if queue.leased else ""
    return f"{queue.answered:,} of {counted(queue.total, 'box')} answered{others}"


def _print_queues(found: "Iterable[ReviewQueue]") -> None:
    numbers = ("boxes", "answered", "shown now", "left")
    rows = table("queue", "run", "order", *numbers, "created", right=numbers)
    for queue in found:
        figures = (queue.total, queue.answered, queue.leased, queue.waiting)
        cells = (f"{figure:,}" for figure in figures)
        rows.add_row(queue.name, queue.run, queue.order, *cells, local_time(queue.created_at))
    console().print(rows)


def _print_reviews(found: Iterable[Review], names: Mapping[str, str]) -> None:
    rows = table("id", "when", "person", "image", "class", "answer", "box", right=("id",))
    for review in found:
        box = " ".join(f"{edge:.0f}" for edge in review.box) if review.box else ""
        rows.add_row(
            str(review.id),
            local_time(review.created_at),
            review.person,
            names.get(review.image, review.image[:12]),
            review.class_name,
            _said(review),
            box,
        )
    console().print(rows)


def _said(review: Review) -> str:
    """``wrong (class: cat)``, ``right, with a mask of 812 pixels``, ``right, taken back``."""
    if review.undoes is not None:
        return f"takes back {review.undoes}"
    said = ANSWERED[review.answer]
    if review.reason:
        new = f": {review.new_class}" if review.new_class else ""
        said += f" ({review.reason.value.replace('_', ' ')}{new})"
    if review.mask:
        said += f", with a mask of {counted(review.mask.area, 'pixel')}"
    return said if review.undone_by is None else f"{said}, taken back by {review.undone_by}"
