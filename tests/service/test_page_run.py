"""The page in a real browser: logging in, and what runs: jobs, students, guarantees, devices."""

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import BROWSER, BROWSERS
from fakes import Row, ScriptedProposer, ScriptedVerifier
from guaranteed import COUNT, RIGHT, pets_truth, store_pets
from PIL import Image as PILImage
from playwright.sync_api import Browser, expect
from registered import add_version, another_student, freeze_quarters, student_of_snapshot
from serving import png, server_settings, serving, wait_until
from stored import STREET, stored_run
from stored import labelled as labelled_street
from students import write_student
from web_page import WebPage, browser, open_page

from secondlook.core.access import Role, TokenAccess
from secondlook.core.types import Image
from secondlook.evaluation.guarantee import Terms
from secondlook.jobs import training
from secondlook.review.guarantees import (
    GuaranteeRequest,
    apply_guarantee,
    create_guarantee,
    guarantee_status,
)
from secondlook.review.local_reviews import LocalReviews
from secondlook.store import Store, open_store
from secondlook.store.guarantees import GuaranteeState
from secondlook.store.runs import create_run
from secondlook_client import Client
from secondlook_client.values import JobState, ReviewAnswer, TrainingState

__all__ = ["browser"]
"""A fixture of these tests."""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"none of these browsers is installed: {', '.join(BROWSERS)}"
)
HOSTILE = "<img src=x onerror=\"document.title='hostile'\">"
PROGRAM = Path(__file__).resolve().parents[1] / "support/training_program.py"


@dataclass(frozen=True)
class Place:
    """A server with tokens, and the page of it."""

    store: Store
    origin: str
    address: str
    photos: Path
    """A folder that it may read."""
    admin: str
    slow: threading.Event
    """Images of jobs are held back until it is set."""

    def token(self, name: str, *roles: Role) -> str:
        """The secret of a new one."""
        return self.store.tokens.create(name, TokenAccess(frozenset(roles)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A store with a run, a student, a guarantee and tokens; trainings are played."""
    scratch = tmp_path_factory.mktemp("run")
    photos = scratch / "photos"
    for name in ("a.png", "b.png", "north/c.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (40, 30), (len(name), 99, ord(name[-5]))).save(photos / name)
    (photos / "cut.png").write_bytes(png()[:40])
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    write_student(scratch / "student")
    slow = threading.Event()

    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        slow.wait(30)
        return STREET

    def played(row: object, address: str, out: Path) -> list[str]:
        return [sys.executable, str(PROGRAM), "waits", str(scratch / "student"), str(out)]

    options = server_settings(
        web_port=0, image_roots=str(photos), data=str(scratch / "data"), max_trainings=1
    )
    answers = {"Dog?": 0.95, "On?": 0.95, "Off?": 0.02}
    models = ScriptedProposer(script), ScriptedVerifier(answers)
    with pytest.MonkeyPatch.context() as patch, open_store(scratch / "data") as store:
        patch.setattr(training, "distill_command", played)
        patch.setattr(training, "POLL_S", 0.05)
        stored_run(store, "street", [labelled_street(f"s{at:02d}") for at in range(6)])
        snapshot = freeze_quarters(store, "quarters")
        student_of_snapshot(scratch / "one", snapshot)
        report = report_of(store)
        add_version(store, scratch / "one", report=report)
        add_version(store, another_student(scratch / "one", "two"), report="{}")
        store_pets(store)
        request = GuaranteeRequest("pets", Terms(0.9, 0.9, 40))
        assert create_guarantee(store, "pets-0.9", request, None, pets_truth()).holds
        admin = store.tokens.create("root", TokenAccess(frozenset({Role.ADMIN})))
        with serving(*models, store=store, options=options) as running:
            server = running.server
            yield Place(store, server.web_address, server.address, photos, admin, slow)
            slow.set()


def report_of(store: Store) -> str:
    """A report of a student as anybody could send one."""
    sha256 = next(iter(store.results.page(store.results.run("street").id, 0, 1))).labelled.sha256
    worst = {
        "name": HOSTILE,
        "sha256": sha256,
        "width": 40,
        "height": 30,
        "mistakes": 1,
        "boxes": [{"class": HOSTILE, "box": [1, 1, 9, 9], "kind": "missed"}, {"box": ["x"]}, 7],
    }
    figures = {"right": 3, "wrong": 1, "missed": 2}
    return json.dumps(
        {
            "classes": ["person", HOSTILE, 5],
            "map50_per_class": {"person": 0.9, HOSTILE: 0.25},
            "at_thresholds": {"person": figures, HOSTILE: figures},
            "training": {"loss": [[1, 9.5], [50, 3.25], [100, 2.0]], "map50": [[50, 0.4], ["x"]]},
            "worst_images": [worst],
        }
    )


def log_in(tab: WebPage, secret: str) -> None:
    """Show a token to the dialog that asks for one."""
    tab.page.get_by_label("Token").fill(secret)
    tab.press("Enter")
    expect(tab.page.get_by_label("Token")).to_have_count(0)


@pytest.fixture
def tab(browser: Browser, place: Place) -> Iterator[WebPage]:
    """The page with all roles; at the end nothing went wrong in it."""
    with open_page(browser, place.origin) as made:
        log_in(made, place.admin)
        yield made
        assert made.problems == []


def test_a_viewer_logs_in_and_is_offered_what_the_token_may_until_it_is_revoked(
    browser: Browser, place: Place
) -> None:
    secret = place.token("vera", Role.VIEWER)
    with open_page(browser, place.origin) as tab:
        field = tab.page.get_by_label("Token")
        for wrong, why in (("slt_x", "This is no token"), (f"slt_{'x' * 43}", "not one of this")):
            field.fill(wrong)
            tab.press("Enter")
            expect(tab.page.get_by_role("alert")).to_contain_text(why)
        tab.press("Escape", "Escape")
        expect(field).to_be_visible()
        assert tab.violations() == []
        log_in(tab, secret)

        header = tab.page.get_by_role("navigation").first
        expect(header).to_have_text("BrowseRun")  # neither Review nor Try
        with tab.page.expect_response("**/images/**") as answered:
            tab.page.locator(".card").filter(has_text="street").click()
        assert answered.value.status == 200
        assert answered.value.request.headers["authorization"] == f"Bearer {secret}"
        tab.go("#/jobs/students")
        expect(tab.page.get_by_text("Version 2")).to_be_visible()
        expect(tab.page.get_by_role("button", name="Promote")).to_have_count(0)
        expect(tab.page.get_by_role("heading", name="Train a student")).to_have_count(0)
        tab.go("#/jobs/new")
        expect(tab.page.get_by_text("does not allow to start jobs")).to_be_visible()
        tab.go("#/review")
        expect(tab.page.get_by_text("Your token has the role viewer")).to_be_visible()
        stored = tab.page.evaluate("[sessionStorage.length, document.cookie, {...localStorage}]")
        assert stored[:2] == [1, ""] and secret not in str(stored[2])

        tab.page.reload()  # the tab remembers it
        expect(header).to_have_text("BrowseRun")
        place.store.tokens.revoke("vera")
        tab.go("#/jobs/devices")
        expect(field).to_be_visible()
        expect(tab.page.get_by_role("alert").last).to_contain_text("was revoked")
        log_in(tab, place.admin)
        expect(tab.page.get_by_role("heading", name="Devices")).to_be_visible()
        expect(header).to_have_text("ReviewBrowseTryRun")
        tab.page.get_by_role("button", name="Log out").click()
        expect(field).to_be_visible()
        assert tab.page.evaluate("sessionStorage.length") == 0
        assert tab.problems == []


def test_nothing_that_was_said_is_lost_when_a_token_ends(browser: Browser, place: Place) -> None:
    LocalReviews(place.store).create_queue("ends", "street")
    secret = place.token("rita", Role.REVIEWER)
    with open_page(browser, place.origin, person="rita") as tab:
        log_in(tab, secret)
        tab.go("#/review/ends")
        tab.say("y")
        tab.wait_sent()
        place.store.tokens.revoke("rita")
        tab.say("n")
        log_in(tab, place.admin)
        tab.say("u")
        tab.wait_sent()
        said = [one for one in LocalReviews(place.store).list() if one.person == "rita"]
        assert [one.answer for one in said] == [
            ReviewAnswer.RIGHT,
            ReviewAnswer.WRONG,
            ReviewAnswer.UNSURE,
        ]
        assert tab.problems == []


def test_a_job_is_started_over_a_folder_and_its_failures_are_tried_again(
    tab: WebPage, place: Place
) -> None:
    tab.go("#/jobs")
    tab.page.get_by_role("link", name="Start a job").click()
    path = tab.page.get_by_label("Folder on the server")
    path.fill("/etc")
    tab.press("Tab")
    expect(tab.page.get_by_role("alert")).to_contain_text("this server may not read '/etc'")
    path.fill("")
    tab.press("Tab")
    folders = tab.page.get_by_role("list", name="Folders")
    folders.get_by_role("button", name=str(place.photos)).click()
    expect(tab.page.get_by_text("4 images directly in it")).to_be_visible()
    expect(folders.get_by_role("button", name="north")).to_be_visible()
    assert tab.violations() == []
    tab.page.get_by_label("Name").fill(f"monday {HOSTILE}")
    tab.page.get_by_label("Classes, one a line").fill("dog ? Dog?")
    tab.page.get_by_role("button", name="Start").click()
    card = tab.page.locator(".card").filter(has_text="monday")
    expect(card).to_contain_text("running")
    expect(card).to_contain_text(str(place.photos))
    place.slow.set()
    expect(card).to_contain_text("2 images failed")
    expect(card).to_contain_text("done")
    expect(card).to_contain_text("3 of 5 images")
    (place.photos / "cut.png").write_bytes(png())
    card.get_by_text("Failures").click()
    expect(card.get_by_role("region", name="bad_image")).to_contain_text("2 images failed")
    expect(card).to_contain_text("cut.png")
    assert tab.violations() == []
    card.get_by_role("button", name="Try all failed again").click()
    expect(card).to_contain_text("4 of 5 images")
    assert tab.page.locator("img[src='x']").count() == 0


def test_files_of_this_computer_become_a_job_and_it_is_cancelled(
    tab: WebPage, place: Place, tmp_path: Path
) -> None:
    for at in range(5):
        PILImage.new("RGB", (50, 40), (at, 30, 90)).save(tmp_path / f"{at}.png")
    place.slow.clear()
    tab.go("#/jobs/new")
    tab.page.get_by_label("Name").fill("dropped")
    tab.page.get_by_label("Files of this computer").check()
    files = tab.page.get_by_label("Drop images here")
    files.set_input_files(sorted(tmp_path.glob("*.png")))
    expect(tab.page.get_by_text("5 images, 0.0 MB")).to_be_visible()
    assert tab.violations() == []
    tab.page.get_by_role("button", name="Start").click()
    expect(tab.page.get_by_text("5 of 5 images sent")).to_be_visible()
    card = tab.page.locator("li.card").filter(has_text="dropped")
    expect(card).to_contain_text("of 5 images")
    card.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("paused")
    assert place.store.queue.get("dropped").state is JobState.PAUSED
    card.get_by_role("button", name="Resume").click()
    expect(card).to_contain_text("running")
    card.get_by_role("button", name="Cancel the job").click()
    expect(card).to_contain_text("cancelled")
    place.slow.set()
    assert place.store.queue.get("dropped").total == 5


def test_a_student_is_trained_looked_at_and_promoted(tab: WebPage, place: Place) -> None:
    tab.go("#/jobs/students")
    versions = tab.page.get_by_role("region", name="street", exact=True).locator("li.card")
    second, first = versions.nth(0), versions.nth(1)
    first.get_by_role("button", name="Promote").click()
    expect(tab.page.get_by_text("street: version 1 is current now.")).to_be_visible()
    assert place.store.model_versions.promote("street", 2, "it finds more", 1)  # elsewhere
    tab.go("#/jobs")
    tab.go("#/jobs/students")
    expect(second).to_contain_text("it finds more")
    second.get_by_role("button", name="Roll back").click()
    expect(first).to_contain_text("current")
    first.get_by_text("Report", exact=True).click()
    rows = first.locator("tbody tr")
    expect(rows.first).to_contain_text(HOSTILE)  # the worst class
    expect(rows.first).to_contain_text("0.75")
    expect(first.get_by_role("img", name="Loss: 2.0 at step 100")).to_be_visible()
    expect(first.locator(".worst rect.missed")).to_have_count(1)
    expect(first.locator(".worst img")).to_have_js_property("naturalWidth", 40)

    tab.page.get_by_label("Name of the student").fill("trained")
    tab.page.get_by_role("button", name="Train").click()
    card = tab.page.locator("li.card").filter(has_text="from quarters")
    expect(card.get_by_role("img", name="Loss: 0.33 at step 3")).to_be_visible()
    expect(card).to_contain_text("step 3 of 3")
    expect(card).to_contain_text("mAP50 0.500")
    assert tab.violations() == []
    [row] = place.store.training_jobs.page()
    card.get_by_role("button", name="Cancel the training").click()
    expect(card).to_contain_text("cancelled")
    wait_until(lambda: place.store.training_jobs.get(row.id).state is TrainingState.CANCELLED)


def test_guarantees_and_devices_are_looked_at(tab: WebPage, place: Place, tmp_path: Path) -> None:
    with (
        Client(place.address, token=place.admin) as client,
        client.capture(
            "gate-3", spool=tmp_path / "spool", device_model=f"gate {HOSTILE}"
        ) as capture,
    ):
        for shade in (10, 200):
            capture.send(png(shade=shade), name=f"shade {shade}")
        capture.flush(timeout_s=20)
        assert client.jobs.get("gate-3").device_model == f"gate {HOSTILE}"
    tab.go("#/jobs/devices")
    device = tab.page.locator(".card").filter(has_text="gate-3")
    expect(device).to_contain_text("2 frames")
    expect(device).to_contain_text("shade 200")
    expect(device).to_contain_text(f"Runs gate {HOSTILE}")
    frame = device.get_by_role("img", name="Last frame of gate-3")
    expect(frame).to_have_js_property("naturalWidth", 40)
    assert str(frame.get_attribute("src")).startswith(f"blob:{place.origin}/")
    assert tab.violations() == []

    tab.go("#/jobs/guarantees")
    shown = tab.page.get_by_role("article")
    expect(shown).to_contain_text("it holds")
    expect(shown).to_contain_text("at least 90.0 % of the guaranteed labels are right")
    expect(shown.locator("tbody tr")).to_contain_text("All together")
    expect(shown).to_contain_text("Missed objects: that nothing was overlooked.")
    expect(shown.locator(".history li").last).to_contain_text("Certified")
    assert tab.violations() == []
    withdrawn = GuaranteeState.WITHDRAWN
    place.store.guarantees.change("pets-0.9", withdrawn, {"reason": HOSTILE}, state=withdrawn)
    tab.page.reload()
    expect(shown.locator(".history li").last).to_contain_text(HOSTILE)
    expect(shown.get_by_role("heading").first).to_have_text("pets-0.9")


def test_a_guarantee_and_a_snapshot_are_made(tab: WebPage, place: Place) -> None:
    tab.go("#/jobs/guarantees")
    form = tab.page.get_by_role("form", name="Make a guarantee")
    form.locator("[name=run]").select_option("pets")
    form.get_by_label("Share of right labels").fill("0.9")
    form.get_by_label("Confidence").fill("0.9")
    form.get_by_label("Answers at most").fill("40")
    form.locator("[name=name]").fill("street-99")
    form.locator("[name=classes]").select_option("Only dog")
    assert tab.violations() == []
    form.get_by_role("button", name="Draw the questions").click()
    shown = tab.page.get_by_role("article")
    expect(shown).to_contain_text("answers are missing")
    shown.get_by_role("button", name="Count the answers").click()
    expect(shown).to_contain_text("The answers are not enough yet: 0 of at most 40")
    reviews = LocalReviews(place.store)
    while items := reviews.next("guarantee-street-99", person="ada", count=40):
        for item in items:
            right = int(item.image_name[1:]) < RIGHT
            reviews.answer(item, "right" if right else "wrong", person="ada")
    shown.get_by_role("button", name="Count the answers").click()
    expect(shown).to_contain_text("it holds")
    expect(shown.locator("tbody tr")).to_contain_text("dog")
    shown.get_by_text("On the command line").click()
    expect(shown).to_contain_text("secondlook guarantee show street-99 --data DIR")
    form.get_by_label("Confidence").fill("0.8")
    form.get_by_role("button", name="Draw the questions").click()
    expect(form.get_by_role("alert")).to_contain_text("a guarantee 'street-99' already")

    tab.go("#/jobs/snapshots")
    form = tab.page.get_by_role("form", name="Make a snapshot")
    form.get_by_label("Name of the snapshot").fill("frozen")
    form.locator("[name=run]").select_option("pets")
    form.get_by_label("Keep rejected boxes").check()
    form.get_by_role("button", name="Make the snapshot").click()
    card = tab.page.locator("li.card").filter(has_text="frozen")
    expect(card).to_contain_text("from pets")
    assert tab.violations() == []
    assert json.loads(place.store.snapshots.get("frozen").query)["hard_negatives"]
    form.get_by_label("Name of the snapshot").fill("under")
    form.get_by_label("Only what is guaranteed").select_option("street-99")
    form.get_by_role("button", name="Make the snapshot").click()
    expect(form.get_by_role("alert")).to_contain_text("secondlook guarantee apply")
    applied = apply_guarantee(place.store, "street-99")
    form.get_by_role("button", name="Make the snapshot").click()
    expect(tab.page.locator("li.card").first).to_contain_text("under the guarantee street-99")

    tab.go(f"#/browse/{applied.run}")
    tab.page.get_by_text("More filters").click()
    certificate = guarantee_status(place.store, "street-99").certificate
    assert certificate is not None
    number = certificate.results[0].accepted  # a dog each
    assert 0 < number < RIGHT
    tab.page.get_by_label("Guaranteed").select_option("Only guaranteed")
    shown = tab.page.locator(".browse").get_by_role("status")
    expect(shown).to_have_text(f"{number} of {COUNT} images")
    tab.page.get_by_label("Guaranteed").select_option("Only others")
    expect(shown).to_have_text(f"{COUNT} images")


def test_a_queue_asks_by_keyframes_where_objects_were_followed(tab: WebPage, place: Place) -> None:
    street = place.store.results.run("street")
    with place.store.database.writing() as connection:
        tracked = {**street.settings, "tracks": True}
        create_run(connection, "clip", "redecide", street.ontology, tracked, street)
    tab.go("#/review")
    tab.page.reload()  # where it was open already, it knew the runs of before
    form = tab.page.get_by_role("form", name="New queue")
    order = form.locator("[name=order]")
    form.locator("[name=run]").select_option("clip")
    order.select_option("REVIEW_ORDER_KEYFRAMES")
    form.locator("[name=run]").select_option("street")
    expect(order.locator("option")).to_have_count(3)
    form.locator("[name=run]").select_option("clip")
    order.select_option("REVIEW_ORDER_KEYFRAMES")
    form.get_by_label("Name of the queue").fill("followed")
    form.get_by_role("button", name="Create the queue").click()
    expect(form.get_by_role("alert")).to_contain_text("run 'clip' has no")
    assert tab.page.url.endswith("#/review"), "no queue was made"
