"""The page in a real Chromium: pictures dropped, compared, checked and downloaded."""

import importlib
import io
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from starlette.requests import Request
from starlette.responses import Response

from conftest import serving
from mspd import Protector, Verifier, images
from mspd.attacks import pgd
from mspd.web import create_app

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs apt-get install chromium chromium-driver"),
    pytest.mark.usefixtures("tiny"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
            driver.set_script_timeout(60)
            yield driver


class Page:
    """What the tests do with the page."""

    def __init__(self, browser: webdriver.Chrome, downloads: Path) -> None:
        self.browser = browser
        self.downloads = downloads
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def js(self, script: str, *args: object) -> Any:
        return self.browser.execute_script(script, *args)

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 120, poll_frequency=0.05).until(lambda _: condition())

    def drop(self, *files: Path) -> None:
        """As a drag from the file manager ends; the states that are shown from then on go to window.seen."""
        self.js(
            "window.seen = []; const note = () => {"
            "  seen.push([document.getElementById('overall').value, document.getElementById('list').innerText]) };"
            "new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});"
            "const input = document.createElement('input'); input.type = 'file'; input.multiple = true;"
            "input.id = 'hand'; document.body.append(input)"
        )
        self.one("#hand").send_keys("\n".join(map(str, files)))
        self.js(
            "const input = document.getElementById('hand'), held = new DataTransfer();"
            "for (const file of input.files) held.items.add(file); input.remove();"
            "document.getElementById('drop').dispatchEvent("
            "  new DragEvent('drop', {dataTransfer: held, bubbles: true, cancelable: true}))"
        )

    def downloaded(self, name: str) -> bytes:
        self.until(lambda: (self.downloads / name).exists() and not list(self.downloads.glob("*.crdownload")))
        return (self.downloads / name).read_bytes()


@pytest.fixture
def page(browser: webdriver.Chrome, tiny: str, tmp_path: Path) -> Iterator[Page]:
    with serving(create_app()) as address:
        page = Page(browser, tmp_path / "downloads")
        browser.get(address)
        page.until(lambda: page.all("html[data-ready]"))
        Select(page.one("#preset")).select_by_visible_text(tiny)
        yield page
        strange = [entry for entry in browser.get_log("browser") if "Failed to load resource" not in entry["message"]]
        assert strange == []  # no script error, nothing that the content security policy stopped
        browser.get("about:blank")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two good ones and a broken one between them."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("one.png", "two.png")):
        small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 44), Image.Resampling.BICUBIC).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "one.png").read_bytes()[:200])
    return [folder / "one.png", folder / "broken.png", folder / "two.png"]


def test_three_photos_one_broken(page: Page, photos: list[Path], tiny: str) -> None:
    page.js("const s = document.getElementById('strength'); s.value = 6; s.dispatchEvent(new Event('input'))")
    assert page.one("#strength-value").text == "6/255"
    page.one("#seed").clear()
    page.one("#seed").send_keys("11")
    page.drop(*photos)
    page.until(lambda: len(page.all(".picture.done")) == 2)
    page.until(lambda: page.one("#overall").is_displayed() is False)

    # progress: each state was on the screen, and the bar moved
    seen = page.js("return window.seen")
    assert any("Waiting" in text for _, text in seen)
    assert any("Protecting" in text for _, text in seen)
    assert {round(value, 2) for value, _ in seen} >= {0, 0.33, 0.67}
    assert page.one("#pictures-title").text == "2 of 3 protected, 1 failed"
    assert re.search(r"two.png: (Not r|R)ecognised", page.one("#live").text)

    # the broken one has the server's line, and no more
    failed = page.one(".picture.failed")
    assert (
        failed.find_element(By.CSS_SELECTOR, ".status").text
        == "broken.png: damaged or cut short; get a fresh copy of it"
    )
    assert not failed.find_element(By.CSS_SELECTOR, ".download").is_displayed()

    # what was recognised and how sure
    protector = Protector(tiny, eps=6 / 255)
    expected = {p.name: protector.protect_picture(images.read(p), "x.png", seed=11) for p in (photos[0], photos[2])}
    for card, name in zip(page.all(".picture.done"), expected, strict=True):
        report = expected[name][1]
        text = card.find_element(By.CSS_SELECTOR, ".status").text
        assert report.label in text
        assert f"{round(100 * report.confidence)} % sure" in text
        assert f"No pixel moved by more than {report.linf} of 255 (budget 6)" in card.text

    # one download, decoded: the protector's bytes, within the budget
    page.one(".picture.done .download").click()
    data = page.downloaded("one.protected.png")
    assert data == expected["one.png"][0]
    moved = np.abs(images.decode(data, "x").pixels.astype(int) - images.read(photos[0]).pixels)
    assert 0 < moved.max() <= 6

    # all of them
    page.one("#download-all").click()
    with zipfile.ZipFile(io.BytesIO(page.downloaded("protected.zip"))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["one.protected.png", "two.protected.png"]
        assert archive.read("two.protected.png") == expected["two.png"][0]

    # again with other settings
    page.one("#seed").clear()
    page.one("#seed").send_keys("12")
    page.one("#again").click()
    page.until(lambda: len(page.all(".picture.done")) == 2 and not page.one("#overall").is_displayed())
    (page.downloads / "one.protected.png").unlink()
    page.one(".picture.done .download").click()
    other, _ = protector.protect_picture(images.read(photos[0]), "x.png", seed=12)
    assert page.downloaded("one.protected.png") == other

    page.one("#clear").click()
    assert not page.one("#pictures").is_displayed()
    assert page.js("return document.activeElement.id") == "files"


def test_slider_difference_and_zoom(page: Page, photos: list[Path]) -> None:
    page.drop(photos[0])
    page.until(lambda: page.all(".picture.done .compare[open]"))
    page.until(lambda: page.js("return document.querySelector('.after').width") == 60)

    slide = page.one(".slide")
    shown = lambda: page.js("return document.querySelector('.after').style.clipPath")  # noqa: E731
    assert "50%" in shown()
    assert page.js("return document.querySelector('.before').style.clipPath") == "inset(0px 50% 0px 0px)"
    slide.send_keys(Keys.HOME)
    assert slide.get_attribute("aria-valuetext") == "0 % original, 100 % protected"
    slide.send_keys(Keys.ARROW_RIGHT)
    assert "1%" in shown()
    webdriver.ActionChains(page.browser).move_to_element(page.one(".stage")).click().perform()
    assert abs(int(slide.get_attribute("value") or 0) - 50) <= 2

    page.one(".amplify").click()
    assert page.one(".difference").is_displayed()
    drawn = page.js(
        "const c = document.querySelector('.difference');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    page.one(".picture.done .download").click()
    copy = images.decode(page.downloaded("one.protected.png"), "x").pixels
    expected = np.clip(128 + 16 * (copy.astype(int) - images.read(photos[0]).pixels), 0, 255)
    assert np.array_equal(np.reshape(drawn, (44, 60, 4))[:, :, :3], expected)

    wide = page.one(".sheet").size["width"]
    Select(page.one(".zoom")).select_by_value("4")
    assert page.one(".sheet").size["width"] == pytest.approx(4 * wide, abs=4)
    assert page.js("const s = document.querySelector('.stage'); return s.scrollWidth > s.clientWidth")
    page.one(".compare summary").click()  # a closed viewer keeps no pixels
    page.until(lambda: page.js("return document.querySelector('.after').width") == 0)


def test_a_copy_without_its_original_is_not_compared(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (60, 44), "teal").save(tmp_path / "unseen.tif")
    page.drop(tmp_path / "unseen.tif")
    page.until(lambda: page.all(".compare.alone"))
    assert page.one(".note").text == "This browser cannot show the format of the original; here is the copy alone."
    assert page.one(".after").is_displayed()
    assert not any(e.is_displayed() for e in page.all(".tag, .divider, .slide, .amplify"))


def test_does_it_hold(page: Page, photos: list[Path], tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate = threading.Event(), threading.Event()
    read = Verifier.read

    def gated(verifier: Verifier, *args: Any) -> Any:
        entered.set()
        assert gate.wait(60)
        return read(verifier, *args)

    monkeypatch.setattr(Verifier, "read", gated)
    monkeypatch.setattr(importlib.import_module("mspd.verify"), "pgd", partial(pgd, steps=2))
    page.drop(photos[0])
    page.until(lambda: page.all(".picture.done"))
    page.one(".check summary").click()
    page.one(".start").click()
    assert entered.wait(60)
    page.until(lambda: page.one(".stage-name").text == "Attacking")
    assert page.js("return document.activeElement.className") == "halt"
    page.one(".halt").click()
    page.until(lambda: page.one(".result").text == "Stopped.")
    assert page.js("return document.activeElement.className") == "primary start"
    gate.set()

    page.one(".start").click()
    page.until(lambda: page.all(".result .target"))
    page.one(".picture.done .download").click()
    copy = images.decode(page.downloaded("one.protected.png"), "x")
    expected = Verifier(tiny).compare(images.read(photos[0]), copy)
    result = page.one(".result").text
    assert result.startswith("It helps." if expected.verdict == "helps" else "No effect found.")
    assert expected.remark in result
    assert f"changes by {expected.gain:+.2f}".replace("-", "\N{MINUS SIGN}") in result
    assert [row.text for row in page.all(".result tbody th")] == ["as it is", "after JPEG 75", "at half the size"]
    assert len(page.all(".result svg circle")) == 6
    assert page.one("#live").text == f"one.png: {expected.verdict}"
    assert page.one(".start").accessible_name == "Check again: one.png"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The defence waits for it."""
    gate = threading.Event()
    defend = Protector.defend

    def gated(protector: Protector, *args: Any) -> Any:
        assert gate.wait(60)
        return defend(protector, *args)

    monkeypatch.setattr(Protector, "defend", gated)
    return gate


def test_a_server_without_presets_is_named_and_asked_again(browser: webdriver.Chrome, photos: list[Path]) -> None:
    app, up = create_app(), threading.Event()

    @app.middleware("http")
    async def down(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request) if up.is_set() or "/api/" not in request.url.path else Response(status_code=502)

    with serving(app) as address:
        page = Page(browser, photos[0].parent)
        browser.get(address)
        page.until(lambda: page.one("#trouble").text)
        assert page.one("#trouble").text == "Not ready, trying again every two seconds: mspd answered 502"
        page.drop(photos[1])
        up.set()
        page.until(lambda: page.all(".picture.failed"))  # was kept for later
        assert page.one(".failed .status").text.startswith("broken.png: damaged")
        assert page.one("#trouble").text == ""
        browser.get("about:blank")


def test_what_was_added_is_seen_and_heard_on_a_phone(page: Page, photos: list[Path], gate: threading.Event) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.drop(*photos)
        page.until(lambda: page.all(".picture.working"))
        place = page.js("return document.querySelector('.picture').getBoundingClientRect().toJSON()")
        assert place["top"] > 0
        assert place["bottom"] <= 801
        assert page.one("#live").text == "Added: 3"
        assert page.one(".working .bar").accessible_name == "Progress: one.png"
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        gate.set()


def test_stopping_a_batch(page: Page, photos: list[Path], gate: threading.Event) -> None:
    page.drop(*photos)
    page.until(lambda: page.all(".picture.working"))
    page.one("#stop").click()
    page.until(lambda: len(page.all(".picture.stopped")) == 3)
    gate.set()
    page.one("#again").click()
    page.until(lambda: len(page.all(".picture.done")) == 2)


def test_a_picture_that_is_gone_is_told_from_a_server_that_is(
    page: Page, photos: list[Path], tmp_path: Path, gate: threading.Event
) -> None:
    gone = tmp_path / "gone.png"
    gone.write_bytes(photos[0].read_bytes())
    page.drop(photos[0], gone)
    page.until(lambda: page.all(".picture.working"))
    gone.unlink()
    gate.set()
    page.until(lambda: page.all(".picture.failed"))
    assert page.one(".failed .status").text.startswith("the file cannot be read: it is a folder")


def test_more_than_a_zip_holds_goes_into_several(page: Page) -> None:
    groups = page.browser.execute_async_script(
        "const [done] = arguments, blob = new Blob(['x'.repeat(1000)]);"
        "const files = ['a.png', 'b.png', 'a.png'].map((name) => [name, blob]);"
        "import('/page/zip.js').then(({ volumes }) => volumes(files, 4500).map((group) => group.map(([name]) => name)))"
        "  .then(done, (error) => done(String(error)))"
    )
    assert groups == [["a.png", "b.png"], ["a (2).png"]]


def test_again_is_for_what_would_be_another(page: Page, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    protect = Protector.protect_picture

    def counted(protector: Protector, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[1])
        return protect(protector, *args, **kwargs)

    monkeypatch.setattr(Protector, "protect_picture", counted)
    page.drop(photos[0], photos[1])
    page.until(lambda: page.all(".picture.done") and page.all(".picture.failed"))
    assert page.one("#again").text == "Protect 1 again"
    page.one("#again").click()
    page.until(lambda: page.one("#again").is_displayed() and page.all(".picture.failed"))
    assert calls == ["one.protected.png"]

    page.one(".failed .remove").click()
    assert not page.one("#again").is_displayed()
    page.one("#seed").clear()
    assert page.one("#seed").get_property("value") == "0"
    page.one("#new-seed").click()
    assert page.one("#again").text == "Protect again"
    page.one("#again").click()
    page.until(lambda: len(calls) == 2 and page.all(".picture.done"))


def test_protecting_again_during_a_check(page: Page, photos: list[Path], gate: threading.Event) -> None:
    gate.set()
    page.drop(photos[0])
    page.until(lambda: page.all(".picture.done"))
    page.one("#new-seed").click()
    gate.clear()
    page.one(".check summary").click()
    page.js("document.querySelector('.start').click(); document.getElementById('again').click()")
    page.until(lambda: page.all(".picture.working"))
    page.until(lambda: page.js("return document.querySelector('.halt').hidden"))
    page.one(".cancel").click()
    page.until(lambda: page.all(".picture.stopped"))
    gate.set()


def test_keyboard_and_names(page: Page, photos: list[Path]) -> None:
    page.drop(photos[0], photos[1])
    page.until(lambda: page.all(".picture.done") and page.all(".picture.failed"))
    controls = [e for e in page.all("input, select, button, a, summary, progress, canvas") if e.is_displayed()]
    assert len(controls) > 15
    for control in controls:
        if control.tag_name != "summary":
            assert control.accessible_name.strip(), control.get_attribute("outerHTML")
    page.js("document.querySelector('.limits summary').focus()")
    reached = []
    for _ in range(30):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.append(page.js("const e = document.activeElement; return e.id || e.classList[0]"))
    wanted = [
        "files",
        "preset",
        "strength",
        "seed",
        "new-seed",
        "again",
        "clear",
        "button",
        "stage",
        "slide",
    ]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places), reached


def test_focus_is_never_on_what_is_gone(page: Page, photos: list[Path], gate: threading.Event) -> None:
    def focused() -> str:
        return str(page.browser.switch_to.active_element.accessible_name)

    page.drop(*photos, photos[0])
    page.until(lambda: page.all(".picture.working"))
    page.js("document.querySelector('.working .cancel').focus()")
    gate.set()
    page.until(lambda: not page.one("#stop").is_displayed())
    assert focused() == "Download: one.png"
    page.js("document.querySelectorAll('.remove')[1].focus()")
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert focused() == "Download: two.png"
    gate.clear()
    page.one("#new-seed").click()
    page.one("#again").send_keys(Keys.ENTER)
    assert focused() == "0 of 3 protected"
    page.until(lambda: page.all(".picture.working"))
    page.one("#stop").send_keys(Keys.ENTER)
    page.until(lambda: len(page.all(".picture.stopped")) == 3)
    assert focused() == "0 of 3 protected"
    gate.set()
    for _ in range(3):
        page.js("[...document.querySelectorAll('.remove')].at(-1).focus()")
        page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.js("return document.activeElement.id") == "files"


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_is_readable(page: Page, photos: list[Path], width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        page.drop(photos[0], photos[1])
        page.until(lambda: page.all(".picture.done") and page.all(".picture.failed"))
        assert page.js("return document.scrollingElement.scrollWidth") <= width
        for selector in ("body", ".lead", ".status", ".picture.failed .status", ".facts", "#strength-hint", ".primary"):
            ink, paper = page.js(
                "let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color;"
                "for (; e; e = e.parentElement) { const paper = getComputedStyle(e).backgroundColor;"
                "  if (paper !== 'rgba(0, 0, 0, 0)') return [ink, paper] }",
                selector,
            )
            assert contrast(ink, paper) >= 4.5, (selector, ink, paper)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(*colours: str) -> float:
    """Of two CSS colours rgb(r, g, b), as WCAG 2 has it."""

    def luminance(colour: str) -> float:
        channels = [int(v) / 255 for v in colour[4:-1].split(",")]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
