"""The page of a real server in a real browser: reviews by keys, on a bad line, browsing, trying."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest
from browser import BROWSER, BROWSERS
from fakes import ScriptedProposer, ScriptedSegmenter, ScriptedVerifier
from flaky_line import FlakyLine
from PIL import Image as PILImage
from playwright.sync_api import Browser, Route, expect
from serving import server_settings, serving, wait_until
from stored import STREET, labelled, stored_run
from web_page import WebPage, browser, open_page

from secondlook.core.ontology_yaml import ontology_from_lines, ontology_from_yaml
from secondlook.core.types import Labelled
from secondlook.review.local_reviews import LocalReviews
from secondlook.store import Store, open_store
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Review, ReviewAnswer, WrongReason

__all__ = ["browser"]
"""A fixture of these tests."""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"none of these browsers is installed: {', '.join(BROWSERS)}"
)
HOSTILE = "<img src=x onerror=\"document.title='hostile'\">"
CLASSES = Ontology(
    (
        ClassSpec("person on foot", ("person",), "On foot?"),
        ClassSpec(HOSTILE, ("dog",), "Dog?", accept=0.9),
    )
)
IMAGES = 60
NOBODY = "127.0.0.1:1"
"""Where no server listens."""
RUN, UNTOUCHED = f"street {HOSTILE}", "nobody reviewed it"
SHIFTED = "less was found"
"""A run over three of the images, of which two have lost a label."""


@dataclass(frozen=True)
class Place:
    """A server with a run, and the page of it."""

    store: Store
    origin: str
    address: str
    """``host:port`` of the page."""

    def queue(self, name: str, count: int = 0) -> None:
        """A new queue of the run's boxes."""
        LocalReviews(self.store).create_queue(name, RUN, count=count)

    def reviews(self, person: str) -> list[Review]:
        """What a person said, undone or not."""
        return [one for one in LocalReviews(self.store).list() if one.person == person]

    def standing(self, person: str) -> list[Review]:
        """What a person said and did not take back."""
        return [one for one in self.reviews(person) if not one.undone_by and not one.undoes]

    def wait_standing(self, person: str, count: int) -> list[Review]:
        """The same once there are so many, as the page may not have begun to send them."""
        wait_until(lambda: len(self.standing(person)) == count, 20)
        return self.standing(person)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server over a store with two runs, whose names hold markup."""
    answers = {"On foot?": 0.95, "Riding?": 0.9, "Dog?": 0.5}
    answers |= {"Standing?": 0.02, "Is it a cat?": 0.03}

    def results(names: str) -> list[Labelled]:
        numbers = range(IMAGES)
        return [labelled(f"{names}{at:02d} {HOSTILE}", STREET, answers, CLASSES) for at in numbers]

    options = server_settings(web_port=0)
    models = ScriptedProposer(lambda image, phrases: STREET), ScriptedVerifier(answers)
    with open_store(tmp_path_factory.mktemp("data") / "data") as store:
        stored_run(store, RUN, results(""), CLASSES)
        untouched = results("u")
        stored_run(store, UNTOUCHED, untouched, CLASSES)
        fewer = [labelled(one.name, STREET[1:], answers, CLASSES) for one in untouched[:2]]
        stored_run(store, SHIFTED, [*fewer, untouched[2]], CLASSES)
        segmenter = ScriptedSegmenter()
        with serving(*models, store=store, options=options, segmenter=segmenter) as running:
            origin = running.server.web_address
            yield Place(store, origin, origin.removeprefix("http://"))


@pytest.fixture
def tab(browser: Browser, place: Place) -> Iterator[WebPage]:
    """The page; at the end nothing went wrong in it."""
    with open_page(browser, place.origin) as made:
        yield made
        assert made.problems == []


def answers_of(reviews: list[Review]) -> list[tuple[ReviewAnswer, WrongReason | None]]:
    """What was said, in order."""
    return [(one.answer, one.reason) for one in reviews]


def test_a_queue_is_reviewed_with_keys_alone(browser: Browser, place: Place) -> None:
    place.queue("by keys")
    with open_page(browser, place.origin, person="") as tab:
        tab.page.get_by_label("Your name").wait_for()
        tab.page.keyboard.type("grace")
        tab.press("Enter")
        card = tab.page.get_by_role("link", name="by keys")
        card.wait_for()
        for _ in range(20):  # past the links of the header
            tab.press("Tab")
            if card.evaluate("(link) => link === document.activeElement"):
                break
        tab.press("Enter")
        first = tab.shown_item()

        for keys in ("y", "n", "d", "u"):
            tab.say(keys)
        tab.say("c", "1")  # the first of the other classes
        tab.say("o", "Shift+ArrowLeft", "Alt+ArrowUp", "Enter")
        tab.say("o", "Enter")  # says so, and mends nothing
        skipped = tab.shown_item()
        tab.say("s")
        assert tab.shown_item() != skipped
        tab.say("m")
        tab.say("a", "ArrowUp", "ArrowRight", "Enter", "Enter")
        tab.wait_sent()

        said = place.standing("grace")
        assert all(0 < one.seconds < 60 for one in said[:7]), [one.seconds for one in said]
        wrong = ReviewAnswer.WRONG
        assert answers_of(said) == [
            (ReviewAnswer.RIGHT, None),
            (wrong, WrongReason.NOTHING_THERE),
            (wrong, WrongReason.DUPLICATE),
            (ReviewAnswer.UNSURE, None),
            (wrong, WrongReason.CLASS),
            (wrong, WrongReason.OUTLINE),
            (wrong, WrongReason.OUTLINE),
            (ReviewAnswer.COMPLETE, None),
            (ReviewAnswer.MISSING, None),
        ]
        assert said[4].new_class in CLASSES.names and said[4].new_class != said[4].class_name
        before, after = said[5].box, said[5].new_box
        assert before is not None and after is not None
        assert after[0] == max(before[0] - 10, 0) and after[2] - after[0] == before[2] - before[0]
        assert after[3] == before[3] - 1 and said[6].new_box is None
        assert said[8].box == pytest.approx((17, 12, 25, 18))

        tab.press(*"zzzzzzzzz")  # all of it
        tab.wait_sent()
        assert place.standing("grace") == [] and tab.shown_item() == first
        assert LocalReviews(place.store).queue("by keys").answered == 0
        assert tab.problems == []


def test_nothing_is_lost_or_doubled_on_a_line_that_breaks(browser: Browser, place: Place) -> None:
    place.queue("bad line", count=50)
    with (
        FlakyLine(place.address) as line,
        open_page(browser, f"http://{line.address}", person="bea") as tab,
    ):
        tab.go("#/review/bad line")
        given: dict[str, str] = {}
        for number, key in zip(range(40), itertools.cycle("ynu"), strict=False):
            item = tab.shown_item()
            assert item not in given  # nothing is asked again, on its way or answered
            given[item] = key
            tab.press(key)
            if number % 4 == 3:  # in the middle of a call, or between two
                line.cut()
            if number == 20:
                item = tab.shown_item()
                line.target = NOBODY
                line.cut()
                tab.press("y")
                expect(tab.page.get_by_text("No answer from the server")).to_be_visible()
                tab.press("z")
                assert tab.shown_item() == item
                tab.press("n")
                given[item] = "n"
                line.target = place.address
                tab.page.reload()  # what waits is kept
        tab.wait_sent()

        words = {"y": ReviewAnswer.RIGHT, "n": ReviewAnswer.WRONG, "u": ReviewAnswer.UNSURE}
        items = LocalReviews(place.store).store.reviews.items("bad line", limit=100)
        kept = {str(item.id): said.answer for item, said in items if said}
        assert kept == {item: words[key] for item, key in given.items()}
        assert len(place.standing("bea")) == len(given)
        assert tab.problems == []


def test_nothing_is_said_of_a_box_that_is_not_on_the_screen(tab: WebPage, place: Place) -> None:
    place.queue("unseen", count=3)
    held: list[Route] = []
    tab.page.route("**/images/**", lambda route: held.append(route))
    tab.go("#/review/unseen")
    right = tab.page.get_by_role("button", name="Right")
    expect(right).to_be_disabled()
    tab.press("y", "n")
    expect(tab.page.get_by_text("0 of 3")).to_be_visible()
    for route in held:
        route.continue_()
    expect(right).to_be_enabled()
    tab.wait_sent()
    assert place.standing("ada") == []


def test_a_click_makes_a_mask_that_is_kept(tab: WebPage, place: Place) -> None:
    place.queue("clicks", count=3)
    tab.go("#/review/clicks")
    tab.shown_item()
    tab.press("o")
    expect(tab.page.get_by_text("Click on the object for its mask")).to_be_visible()
    with tab.page.expect_response("**/Segment"):
        tab.page.locator("canvas.viewer").click()
    save = tab.page.get_by_role("button", name="Save the outline")
    expect(save).to_be_enabled()
    save.click()
    tab.wait_sent()
    (said,) = place.standing("ada")
    assert said.mask is not None and said.new_box is not None
    assert said.mask.box == said.new_box
    tab.press("z")
    tab.wait_sent()
    assert place.standing("ada") == []


def test_a_mask_is_painted_and_erased(tab: WebPage, place: Place) -> None:
    place.queue("brush", count=3)
    tab.go("#/review/brush")
    tab.shown_item()
    tab.press("a")
    viewer = tab.page.locator("canvas.viewer")
    around = viewer.bounding_box()
    assert around is not None
    middle, height = around["x"] + around["width"] / 2, around["y"] + around["height"] / 2
    tab.press("p", "]", "[")
    expect(tab.page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")

    def drag(from_x: float, to_x: float, button: Literal["left", "right"] = "left") -> None:
        tab.page.mouse.move(from_x, height)
        tab.page.mouse.down(button=button)
        tab.page.mouse.move(to_x, height, steps=4)
        tab.page.mouse.up(button=button)

    drag(middle - 40, middle + 40)
    drag(middle + 25, middle + 80, "right")
    tab.page.get_by_role("button", name="Choose its class").click()
    tab.press("1")
    tab.wait_sent()
    (said,) = place.standing("ada")
    assert said.answer is ReviewAnswer.MISSING and said.mask is not None
    assert said.box == said.mask.box
    left, _, right, _ = said.mask.box or (0, 0, 0, 0)
    # The image of 40 pixels is shown four times as large, and the brush is 6 pixels wide.
    assert left == pytest.approx(20 - 40 / 4 - 3, abs=2)
    assert right < 20 + 25 / 4  # what was erased is not of it
    tab.press("z")
    tab.wait_sent()


def test_a_box_with_two_objects_becomes_two(tab: WebPage, place: Place) -> None:
    place.queue("two", count=3)
    tab.go("#/review/two")
    item = tab.shown_item()
    tab.press("t")
    expect(tab.page.get_by_text("Outline of object 1 of 2")).to_be_visible()
    tab.press("ArrowUp", "Enter")
    expect(tab.page.get_by_text("Outline of object 2 of 2")).to_be_visible()
    assert tab.violations() == []
    tab.press("Enter")
    tab.wait_sent()
    wrong, missing = place.standing("ada")
    assert (wrong.answer, wrong.reason) == (ReviewAnswer.WRONG, WrongReason.OUTLINE)
    assert missing.answer is ReviewAnswer.MISSING and missing.class_name == wrong.class_name
    assert wrong.new_box is not None and wrong.box is not None and missing.box is not None
    assert missing.box[2:] == wrong.box[2:]  # the other half
    tab.press("z")  # both at once
    tab.wait_sent()
    assert place.standing("ada") == [] and tab.shown_item() == item


def test_a_grid_answers_all_but_the_exceptions(tab: WebPage, place: Place) -> None:
    place.queue("grid", count=40)
    tab.go("#/review/grid")
    tab.shown_item()
    tab.press("g")
    tiles = tab.page.locator(".tile")
    expect(tiles.nth(15)).to_be_visible()
    expect(tab.page.locator(".tile img").nth(15)).to_have_js_property("complete", True)
    count = tiles.count()
    tab.press("ArrowRight", "ArrowRight", "Space")
    assert tab.violations() == []
    tab.press("Enter")
    exception = tab.shown_item()
    tab.press("n")

    said = place.wait_standing("ada", count)
    assert [one.answer for one in said] == [ReviewAnswer.RIGHT] * (count - 1) + [ReviewAnswer.WRONG]
    assert len({one.class_name for one in said}) == 1
    tab.press("z", "z")  # the exception, then the screen
    assert place.wait_standing("ada", 0) == []
    assert exception


def test_a_run_is_browsed_filtered_and_explained(tab: WebPage) -> None:
    tab.go("#/browse")
    card = tab.page.locator(".card").filter(has_text=UNTOUCHED)
    expect(card).to_contain_text("60 images")
    assert tab.violations() == []
    card.click()
    expect(tab.page.locator(".image-grid canvas[data-shown]")).to_be_visible()
    tab.page.get_by_label("Name contains").fill("u07 <img")
    expect(tab.page.get_by_role("status").filter(has_text="1 of 60")).to_be_visible()
    tab.page.get_by_role("button", name="Clear the filters").click()
    brush = tab.page.locator(".brush").first
    brush.locator(".bar").first.wait_for(state="attached")
    across = brush.bounding_box()
    assert across is not None
    for share, act in ((0.1, tab.page.mouse.down), (0.3, tab.page.mouse.up)):
        tab.page.mouse.move(across["x"] + share * across["width"], across["y"] + 5)
        act()
    expect(tab.page.get_by_label("Probability from")).to_have_value(re.compile("0.1|0.09|0.11"))
    expect(tab.page.get_by_text("No image meets these filters.")).to_be_visible()
    brush.click()
    expect(tab.page.get_by_label("Probability from")).to_have_value("")
    tab.page.get_by_role("combobox", name="Class").select_option("person on foot")
    tab.page.get_by_label("Outcome").select_option("rejected")
    expect(tab.page.get_by_text("No image meets these filters.")).to_be_visible()
    tab.page.get_by_label("Outcome").select_option("accepted")
    tab.page.get_by_label("Sort by").select_option("Name")
    expect(tab.page.locator("[data-index='0']")).to_have_attribute(
        "aria-label", re.compile("u00 <img.*label")
    )
    tab.page.get_by_text("More filters").click()
    uncertain = tab.page.get_by_label("Uncertainty from")
    for value, what in (("0.99", "No image meets these filters."), ("", "60 images")):
        uncertain.fill(value)
        uncertain.blur()
        expect(tab.page.get_by_text(what, exact=True)).to_be_visible()
    reason = tab.page.get_by_label("Reason contains")
    for value, what in (("nowhere", "No image meets these filters."), ("p(YES) 0.95", "60 images")):
        reason.fill(value)
        expect(tab.page.get_by_text(what, exact=True)).to_be_visible()
    expect(tab.page.get_by_label("Guaranteed")).to_have_count(0)
    tab.page.get_by_label("Box's share of the image from").fill("0.1")
    tab.page.get_by_label("Labelled by").select_option("Proposer and verifier")
    tab.page.get_by_label("Reviewed").select_option("By nobody")
    tab.page.get_by_label("Decided from").fill("2020-01-01T00:00")
    expect(tab.page.locator(".status").get_by_text("60 images")).to_be_visible()
    expect(tab.page.locator(".brush .bar").nth(100)).to_be_attached()  # of all three
    assert tab.violations() == []
    tab.page.get_by_text("More filters").click()

    tab.page.locator("h1").click()  # out of the fields
    tab.press("ArrowRight", "ArrowRight", "Enter")
    name = tab.page.locator("h1.name")
    expect(name).to_contain_text("u02 <img")
    tab.press("j")
    expect(tab.page.get_by_text("On foot?", exact=True)).to_be_visible()
    expect(tab.page.get_by_text("P(yes) 0.95 ≥ 0.60")).to_be_visible()
    assert tab.violations() == []
    tab.press("ArrowRight")
    expect(name).to_contain_text("u03 <img")
    tab.press("Escape")
    expect(tab.page.locator("[data-index='3']")).to_be_focused()


def test_two_runs_are_compared(tab: WebPage) -> None:
    tab.go(f"#/browse/{quote(UNTOUCHED)}")
    choice = tab.page.get_by_label("Compare with")
    choice.select_option(SHIFTED)
    rows = tab.page.locator(".compared > .panel tbody tr")
    expect(rows.filter(has_text="person on foot")).to_contain_text(
        "10020"
    )  # one is the same, two are lost
    expect(
        tab.page.get_by_text("3 images compared, 57 images only in the first run")
    ).to_be_visible()
    images = tab.page.locator(".choices button")
    expect(images).to_have_count(2)
    expect(images.first).to_contain_text("u00 <img")
    expect(tab.page.locator(".sides canvas.viewer")).to_have_count(2)
    tab.press("ArrowDown")
    expect(images.nth(1)).to_have_attribute("aria-pressed", "true")
    difference = tab.page.get_by_role("button", name="only first")
    difference.click()
    expect(difference).to_have_attribute("aria-pressed", "true")
    assert tab.violations() == []
    tab.page.get_by_role("link", name="Open in its run").first.click()
    expect(tab.page.locator("h1.name")).to_contain_text("u01 <img")


def test_classes_are_tried_and_thresholds_turned(tab: WebPage, tmp_path: Path) -> None:
    lines = ["on foot @how = person ? On foot?", "riding @how = person ? Riding?", "dog ? Dog?"]
    for name in ("a.png", "b.png"):
        PILImage.new("RGB", (40, 30), (90, 120, len(name))).save(tmp_path / name)
    tab.go("#/try")
    tab.page.get_by_label("Drop images").set_input_files(sorted(tmp_path.glob("*.png")))
    tab.page.get_by_label("Classes, one a line").fill("\n".join(lines))
    tab.page.get_by_role("button", name="Label", exact=True).click()
    table = tab.page.locator(".judgements tbody tr")
    expect(table).to_have_count(3)  # the person is both, so unsure of each, and the dog
    assert tab.violations() == []
    tab.page.get_by_role("combobox", name="Class").select_option("dog")
    tab.page.get_by_label("Accept from").fill("0.45")
    expect(table.filter(has_text="dog")).to_contain_text("accepted")
    tab.page.get_by_label("Proposer score from").fill("0.8")
    expect(table.filter(has_text="dog")).to_have_count(0)

    # The same images with another wording of one question, side by side.
    tab.page.get_by_label("Proposer score from").fill("0.25")
    tab.page.get_by_label("Compare with other classes").check()
    second = tab.page.get_by_label("Second list of classes")
    expect(second).to_have_value("\n".join(lines))
    second.fill("\n".join([lines[0].replace("On foot?", "Standing?"), *lines[1:]]))
    tab.page.get_by_role("button", name="Label", exact=True).click()
    expect(table).to_have_count(5)  # on foot is answered with no, so that side is sure of it
    marked = table.filter(has_text="≠")
    expect(marked.filter(has_text="on foot")).to_have_count(1)
    expect(tab.page.locator(".pair canvas.viewer")).to_have_count(2)
    assert tab.violations() == []
    table.filter(has_text="dog").first.get_by_role("button").click()
    wording = tab.page.get_by_label("Question about dog")
    expect(wording).to_have_value("Dog?")
    wording.fill("Is it a cat?")
    tab.page.get_by_role("button", name="Ask all images so").click()
    expect(tab.page.get_by_label("Classes, one a line")).to_have_value(
        re.compile(r"dog \? Is it a cat\?")
    )
    expect(table.filter(has_text="dog")).to_have_count(1)  # no longer on the first side
    tab.page.get_by_label("Compare with other classes").uncheck()

    tab.page.get_by_role("button", name="Use this").click()
    written = ontology_from_yaml(tab.page.locator("pre").first.inner_text())
    typed = ontology_from_lines([*lines[:2], "dog ? Is it a cat?"])
    assert [(one.name, one.phrases, one.question, one.group) for one in written.classes] == [
        (one.name, one.phrases, one.question, one.group) for one in typed.classes
    ]
    dog = written.classes[2]
    assert (dog.threshold, dog.accept, dog.reject) == (0.25, 0.45, 0.4)
    assert tab.violations() == []
    tab.press("Escape")
    tab.go("#/jobs")
    job = tab.page.locator(".card").filter(has_text="try 20").last
    expect(job).to_contain_text("done")
    expect(job).to_contain_text("2 of 2 images")
    assert tab.violations() == []


def test_markup_in_names_shows_as_text(tab: WebPage, place: Place) -> None:
    place.queue(f"hostile {HOSTILE}", count=5)
    tab.page.reload()
    expect(tab.page.get_by_text(f"hostile {HOSTILE}")).to_be_visible()
    tab.page.get_by_text(f"hostile {HOSTILE}").click()
    tab.shown_item()
    expect(tab.page.locator(".facts")).to_contain_text(HOSTILE)
    tab.press("c")
    expect(tab.page.locator(".chooser")).to_be_visible()
    tab.press("Escape")
    tab.go("#/browse")
    expect(tab.page.get_by_text(RUN)).to_be_visible()
    assert tab.page.locator("img[src='x']").count() == 0
    assert "hostile" not in tab.page.title()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault(browser: Browser, place: Place, dark: bool) -> None:
    place.queue(f"axe {dark}", count=5)
    with open_page(browser, place.origin, dark=dark) as tab:
        tab.page.get_by_role("link", name=f"axe {dark}").wait_for()
        assert tab.violations() == []
        tab.go(f"#/review/axe {dark}")
        tab.shown_item()
        tab.press("o")
        assert tab.violations() == []
        if not dark:  # the same colours in other places
            tab.press("Escape", "c")
            assert tab.violations() == []
            tab.press("Escape")
            tab.page.get_by_role("button", name="Keys").click()
            assert tab.violations() == []
        assert tab.problems == []
