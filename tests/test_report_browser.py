"""The report in a real headless browser, without a network: everything is there, has a size, fits a phone, and nothing goes wrong."""

import base64
import fcntl
import io
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_report import report
from stored_search import stored_search

from sweeper.report.assemble import build
from sweeper.report.page import render

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")
DESKTOP, PHONE = 1280, 400
PATIENCE = 20.0  # seconds for one answer
WORDS_OUTSIDE = (
    "[...document.querySelectorAll('.panel svg')].flatMap(svg => {let f = svg.getBoundingClientRect(); return [...svg.querySelectorAll('text')]"
    ".filter(t => {let r = t.getBoundingClientRect(); return r.left < f.left - 1 || r.right > f.right + 1 || r.bottom > f.bottom + 1})"
    ".map(t => t.textContent)})"
)


class Browser:
    """A browser that is spoken to through two pipes, in Chrome's DevTools protocol: JSON messages that end with a zero byte."""

    def __init__(self, folder: Path) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        def connect() -> None:  # the browser reads from descriptor 3 and writes to 4, which may be taken by each other here
            reading, writing = fcntl.fcntl(commands, fcntl.F_DUPFD, 10), fcntl.fcntl(answers, fcntl.F_DUPFD, 10)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        assert PROGRAM is not None
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        words += ["--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
        words += [f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._log = open(folder / "log", "wb")  # noqa: SIM115
        self._process = subprocess.Popen([PROGRAM, *words], stdout=self._log, stderr=self._log, preexec_fn=connect, close_fds=False)
        os.close(commands)
        os.close(answers)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        (page,) = (target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, address: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        """Return what a script says that runs beside the page; the page has none of its own."""
        result = self.call("Runtime.evaluate", expression=f"JSON.stringify({expression})", returnByValue=True)
        assert "exceptionDetails" not in result, result
        return json.loads(result["result"]["value"])

    def view(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def photograph(self) -> Image.Image:
        """Return the whole page as an image."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")

    def trouble(self) -> list[object]:
        """Return what the console said, and every request that was for something else than this file or a part of it."""
        said = [event for event in self.events if event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
        asked = [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [*said, *(address for address in asked if not address.startswith(("file:", "data:")))]

    def close(self) -> None:
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._to)
            os.close(self._from)
            self._log.close()

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            if not self._selector.select(deadline - time.monotonic()):
                raise TimeoutError(f"the browser said nothing for {PATIENCE:g} s")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise EOFError("the browser ended")
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(render(report()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def opened(browser: Browser, folder: Path) -> Browser:
    browser.view(DESKTOP)
    browser.open((folder / "report.html").as_uri())
    return browser


def test_a_searchs_charts_fit_their_page_and_keep_their_words_inside(browser: Browser, tmp_path: Path) -> None:
    made = build(stored_search(tmp_path / "results"), "made")
    (tmp_path / "search.html").write_text(render(made), encoding="utf-8")
    for width in (DESKTOP, PHONE):
        browser.view(width)
        browser.open((tmp_path / "search.html").as_uri())
        assert browser.trouble() == []
        browser.ask("document.querySelectorAll('details').forEach(e => e.open = true) || 1")
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask(WORDS_OUTSIDE) == []
        sizes = browser.ask("[...document.querySelectorAll('.panel svg')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])")
        assert all(across > 200 and up > 60 for across, up in sizes)


def colors(image: Image.Image) -> int:
    return len(image.getcolors(1 << 24) or ())


def test_the_page_opens_without_a_network_and_the_console_stays_silent(opened: Browser, folder: Path) -> None:
    assert opened.ask("document.readyState") == "complete"
    assert opened.trouble() == []
    assert "CONSOLE" not in (folder / "log").read_text(errors="replace")


def test_what_would_be_trouble_is_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="https://example.org/a.png"><script>console.error("no")</script>')
    browser.view(DESKTOP)
    browser.open(bad.as_uri())
    found = browser.trouble()
    assert "https://example.org/a.png" in found and len(found) >= 2


def test_every_section_is_there_and_every_drawing_has_a_size(opened: Browser) -> None:
    assert opened.ask("[...document.querySelectorAll('main > section > h2')].map(e => e.textContent)") == [
        section.title for section in report().sections
    ]
    size = "(e => {let r = e.getBoundingClientRect(); return [r.width, r.height]})"
    drawings = opened.ask(f"[...document.querySelectorAll('.panel > svg')].map{size}")
    assert len(drawings) == 10 and all(width > 200 and height > 120 for width, height in drawings)
    swatches = opened.ask(f"[...document.querySelectorAll('.legend svg')].map{size}")
    assert len(swatches) == 6 + 2 + 12 and all(width > 20 and height > 8 for width, height in swatches)
    pictures = opened.ask("[...document.images].map(e => [e.naturalWidth, e.width, getComputedStyle(e).imageRendering])")
    assert pictures == [[32, 96, "pixelated"]] * 18


def test_words_in_a_figure_stay_inside_it(opened: Browser) -> None:
    assert opened.ask(WORDS_OUTSIDE) == []


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_page(opened: Browser, width: int, media: str) -> None:
    if (width, media) == (PHONE, "print"):
        width = 800  # paper is wider than a phone
    opened.view(width, media=media)
    opened.ask("document.querySelectorAll('details').forEach(e => e.open = true) || 1")
    assert opened.ask("document.documentElement.scrollWidth") <= width
    if media == "screen":
        figures = opened.ask("[...document.querySelectorAll('.panel')].map(e => e.getBoundingClientRect()).map(r => [r.left, r.right])")
        assert all(left >= 0 and right <= width for left, right in figures)


def test_a_figure_has_as_many_panels_beside_each_other_as_it_says_and_one_on_a_phone(opened: Browser) -> None:
    def columns() -> list[int]:
        return opened.ask(
            "[...document.querySelectorAll('.panels')].map(e => new Set([...e.children].map(c => Math.round(c.getBoundingClientRect().left))).size)"
        )

    assert columns() == [4, 1, 2]
    opened.view(PHONE)
    assert columns() == [1, 1, 1]


def test_the_numbers_open_without_a_script(opened: Browser) -> None:
    hidden, shown = "getComputedStyle(document.querySelector('details table')).height", "document.querySelector('details summary')"
    before = opened.ask(f"document.querySelector('details').open || {hidden}")
    place = opened.ask(f"({shown}.scrollIntoView(), (r => [r.left + 5, r.top + 5])({shown}.getBoundingClientRect()))")
    for kind in ("mousePressed", "mouseReleased"):
        opened.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
    assert before is not True
    assert opened.ask("document.querySelector('details').open") is True
    assert opened.ask("document.querySelector('details table').getBoundingClientRect().height") > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_is_readable_in_light_and_in_dark(opened: Browser, width: int, scheme: str) -> None:
    opened.view(width, scheme)
    image = opened.photograph()
    assert image.width == width and image.height > 2000
    quarters = [image.crop((0, image.height * part // 4, width, image.height * (part + 1) // 4)) for part in range(4)]
    assert all(colors(quarter) > 20 for quarter in quarters)
    paper = image.convert("L").getpixel((3, 3))
    assert isinstance(paper, int)
    ink = opened.ask("[...document.querySelectorAll('.panel svg, .panel svg text')].map(e => getComputedStyle(e).fill)")
    assert paper > 240 if scheme == "light" else paper < 40
    assert set(ink) == ({"rgb(27, 30, 35)"} if scheme == "light" else {"rgb(233, 235, 238)"})
