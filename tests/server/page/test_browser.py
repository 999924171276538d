"""The page in Chromium: seen, used by mouse and keyboard, checked for accessibility."""

import json
import shutil
import urllib.request

import pytest
from busy_and_quiet import LAST, ONLY, QUIET, busy_and_quiet
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from live_fleet import LiveFleet
from wire import Client, eventually

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
MARKUP = "<img src=x onerror=document.title='taken'>"
WIDTHS = (390, 768, 1400, 1920)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def live():
    """A daemon whose model has a worker and requests with markup for names."""
    flags = "--refit-interval", "0.5", "--refit-signatures", "16", "--policy", "marginal-cost"
    workers = ["w0", "w1", "w2", MARKUP]
    with (
        running_daemon(*flags) as daemon,
        LiveFleet(daemon.grpc, workers, rate=40, decode_s=0.5, request_ids=f"{MARKUP}-"),
    ):
        yield daemon


@pytest.fixture
def page(browser, live):
    """The page, at 1,400 px; errors in its program fail the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    refused = "Failed to load resource"  # which the page tells by itself
    page.goto(f"http://{live.http}/")
    page.get_by_role("rowheader", name="w0").first.wait_for()
    yield page
    context.close()
    assert not [text for text in wrong if not text.startswith(refused)]


def test_names_never_become_markup(page):
    page.get_by_role("rowheader", name=MARKUP, exact=True).first.wait_for()
    page.get_by_role("rowheader", name=f"{MARKUP}-").first.wait_for()
    page.get_by_role("button", name=f"Drain {MARKUP}").click()
    assert MARKUP in page.locator("#ask-text").inner_text()
    assert page.locator("img").count() == 0
    assert page.title() == "ELDR"


def test_a_worker_is_drained_by_keyboard_after_it_is_confirmed(page, live):
    with Client(live.grpc) as client:
        page.get_by_role("button", name="Drain w1").focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog", name="Drain a worker").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")
        assert client.workers("m")["w1"].state == fleet_pb2.WORKER_STATE_READY
        page.get_by_role("button", name="Drain w1").press("Enter")
        page.get_by_role("button", name="Drain", exact=True).press("Enter")
        page.get_by_role("dialog").wait_for(state="hidden")
        row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="w1"))
        row.get_by_role("cell", name="draining").wait_for()
        assert client.workers("m")["w1"].state == fleet_pb2.WORKER_STATE_DRAINING
        assert not page.get_by_role("button", name="Drain w1").is_enabled()


def test_a_policy_is_switched_and_a_wrong_one_said(page):
    page.get_by_label("Switch to").select_option("locality-band")
    page.get_by_label("with").fill("tau=much")
    page.get_by_role("button", name="Switch…").click()
    page.get_by_role("button", name="Switch", exact=True).click()
    page.locator("#ask-error").filter(has_text="tau").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_label("with").fill("tau=0.3")
    page.get_by_role("button", name="Switch…").click()
    page.get_by_role("button", name="Switch", exact=True).click()
    page.locator("#policy-text").filter(has_text="locality-band (").wait_for()
    assert "tau=0.3" in page.locator("#policy-text").inner_text()


def test_the_partition_is_a_picture_with_numbers(page):
    cells = page.locator("#traffic td[data-level]")
    cells.filter(has_text=".").first.wait_for()  # a new partition has no traffic yet
    shares = [float(text) for text in cells.all_inner_texts() if text]
    assert sum(shares) == pytest.approx(100, abs=1)
    levels = {int(cell.get_attribute("data-level")) for cell in cells.all()}
    assert {0, 8} <= levels
    assert page.locator("#similar td[data-level='8']").count() >= 2


def test_paused_placements_stand_still(page):
    first = page.locator("#placements tbody th").first
    before = first.inner_text()
    eventually(lambda: first.inner_text() != before)
    page.get_by_role("button", name="Pause").click()
    before = first.inner_text()
    page.wait_for_timeout(2_500)
    assert first.inner_text() == before
    page.get_by_role("button", name="Pause").click()
    eventually(lambda: first.inner_text() != before)


def test_a_quiet_model_has_its_placements_beside_a_busy_one(browser):
    with busy_and_quiet() as (daemon, _):
        page = browser.new_page()
        page.goto(f"http://{daemon.http}/")
        page.get_by_role("rowheader", name=LAST, exact=True).wait_for()
        assert page.locator("#placements tbody tr").count() == 60
        page.get_by_role("button", name="Pause").click()
        page.locator("#model").select_option(QUIET)
        page.get_by_role("rowheader", name=ONLY, exact=True).wait_for()
        page.wait_for_timeout(2_500)
        assert page.locator("#placements tbody th").all_inner_texts() == [ONLY]
        page.locator("#model").select_option("busy")
        page.get_by_role("rowheader", name=LAST, exact=True).wait_for()
        page.close()


def test_focus_stays_while_the_table_changes(page):
    button = page.get_by_role("button", name="Drain w2")
    button.focus()
    page.wait_for_timeout(2_500)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Drain w2"


def test_a_daemon_that_is_gone_is_said(browser):
    with running_daemon() as daemon:
        page = browser.new_page()
        page.goto(f"http://{daemon.http}/")
        page.get_by_text("No model is known yet").wait_for()
        page.locator("#link[data-state=live]").wait_for()
    page.locator("#link[data-state=lost]").wait_for()
    page.close()


def test_a_page_that_was_one_too_many_is_live_later(browser):
    with running_daemon() as daemon:
        events = f"http://{daemon.http}/page/events"
        opened = [urllib.request.urlopen(events, timeout=60) for _ in range(64)]
        page = browser.new_page()
        page.goto(f"http://{daemon.http}/")
        page.locator("#link[data-state=lost]").wait_for()
        for each in opened:
            each.close()
        page.locator("#link[data-state=live]").wait_for()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_nothing_overflows(page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("#traffic td[data-level]").first.wait_for()
    page.get_by_role("button", name="Pause").click()
    found = Axe().run(page).response["violations"]
    assert not found, json.dumps([(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
