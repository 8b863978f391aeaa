"""The page of `switchml top --web` in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watched_training import LATE, RANKS, messages, watched_training

from switchml.telemetry.recording import Recorder
from switchml.telemetry.web_frame import frame
from switchml.telemetry.web_server import WebServer

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install 'switchml[browser]'"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium: apt-get install chromium chromium-driver (40 s, not in CI)",
)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
PATIENCE = 120.0
CELL = """
    const canvas = document.querySelector('canvas'), edge = canvas.clientHeight / 8 * (window.devicePixelRatio || 1);
    const left = Math.floor(arguments[0] * edge) + 1;
    return [...canvas.getContext('2d').getImageData(left, 1, 1, 1).data].slice(0, 3)"""
"""The colour of a cell in the first line of the map."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield made
    finally:
        made.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Shows a picture, and returns the browser once the page says so."""
    with WebServer() as server:
        browser.get_log("browser")
        browser.get(server.url)

        def show(words: str, **what: Any) -> Any:
            server.show(frame(watched_training(**what), 0.0))
            until(browser, lambda: words in text(browser, "body"))
            return browser

        yield show
        # Not one error or refusal, and nobody was asked but this server.
        assert browser.get_log("browser") == []
        asked = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert asked
        assert all(url.startswith(server.url) for url in asked)


def until(browser: Any, holds: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda _: holds())


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).innerText", selector))


def rows(browser: Any) -> list[list[str]]:
    """The table of ranks."""
    script = "return [...document.querySelectorAll('.job tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    found: list[list[str]] = browser.execute_script(script)
    return [row for row in found if len(row) >= 8]


def test_an_idle_switch(page: Callable[..., Any]) -> None:
    browser = page("no jobs", trains=False)
    assert "Switch 127.0.0.1:50551" in text(browser, ".switch")
    assert "16,128 of 16,384 slots free" in text(browser, ".switch")
    assert "Waiting for a switch" not in text(browser, "body")


def test_a_training_and_its_late_rank(page: Callable[..., Any]) -> None:
    browser = page("digits-0")
    assert "of 256 slots wait" in text(browser, ".job")
    assert "is late" not in text(browser, ".job")
    assert [row[:3] for row in rows(browser)] == [[str(rank), "udp", "ready"] for rank in range(RANKS)]
    # What is drawn by plots and by the map: colours of all ranks, and two curves over a minute.
    points = browser.execute_script(
        "return [...document.querySelectorAll('.plot polyline')].map(one => one.getAttribute('points'))"
    )
    assert len(points) == 6
    assert all(len(curve.split()) > 10 for curve in points)
    assert colours(browser) >= 5

    browser = page(f"Rank {LATE} is late", late=LATE)
    shares = {row[0]: row[3] for row in rows(browser)}
    assert float(shares[str(LATE)].split()[0]) > 70
    assert float(shares["1"].split()[0]) < 20


def colours(browser: Any) -> int:
    """Different ones among the middles of the cells' left edges, where no digit is."""
    script = """
        const canvas = document.querySelector('canvas'), found = new Set();
        const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const scale = window.devicePixelRatio || 1, cell = canvas.clientHeight / 8 * scale;
        for (let row = 0; row < 8; row++) for (let column = 0; column < 32; column++) {
            const place = 4 * (Math.floor((row + 0.5) * cell) * canvas.width + Math.floor(column * cell + scale));
            found.add(all.data.slice(place, place + 4).join());
        }
        return found.size"""
    return int(browser.execute_script(script))


def test_a_slot_that_is_pointed_at_says_what_it_waits_for(page: Callable[..., Any]) -> None:
    browser = page("digits-0")
    job = frame(watched_training(), 0.0)["switches"][0]["jobs"][0]
    slot = job["missing"].index(1)
    script = """
        const canvas = document.querySelector('canvas'), place = canvas.getBoundingClientRect(), cell = canvas.clientHeight / 8;
        canvas.dispatchEvent(new MouseEvent('mousemove', {
            clientX: place.x + (arguments[0] % 32 + 0.5) * cell,
            clientY: place.y + (Math.floor(arguments[0] / 32) + 0.5) * cell}))"""
    browser.execute_script(script, slot)
    assert f"Slot {slot} waits for rank {job['first'][slot]}" in text(browser, ".job")


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_in_light_and_dark(page: Callable[..., Any], width: int, scheme: str) -> None:
    browser = page("digits-0", late=LATE)
    browser.set_window_size(width, 900)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    wide = browser.execute_script(
        "return [...document.querySelectorAll('html, .scroll, .card')]"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"
    )
    assert wide == []
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(245, 246, 247)", "dark": "rgb(16, 19, 22)"}[scheme]
    # The map, too, which no style sheet colours: a cell that waits for several. It is drawn anew when the browser comes to it.
    slot = frame(watched_training(late=LATE), 0.0)["switches"][0]["jobs"][0]["missing"].index(2)
    several = {"light": [103, 112, 122], "dark": [109, 118, 128]}[scheme]
    until(browser, lambda: browser.execute_script(CELL, slot) == several)
    if folder := os.environ.get("SWITCHML_TEST_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/late_{width}_{scheme}.png")


def test_names_are_text_and_a_job_that_failed_twice_is_there_twice(browser: Any) -> None:
    made = frame(watched_training(), 0.0)
    (switch,) = made["switches"]
    name = "<img src=x onerror=alert(1)>"
    switch["ended"] = 2 * [{**switch["ended"][0], "name": name, "job_number": 0}]
    with WebServer() as server:
        server.show(made)
        browser.get(server.url)
        until(browser, lambda: text(browser, "body").count(name) == 2)
    assert not browser.execute_script("return document.querySelector('#switches img')")


def test_who_is_refused_is_not_told_to_wait(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchml.telemetry.web_server._LOOKERS", 0)
    with WebServer() as server:
        browser.get(server.url)
        until(browser, lambda: "is refused" in text(browser, "header"))


def test_a_recording_is_shown_to_its_end(browser: Any, tmp_path: Path) -> None:
    with Recorder(tmp_path / "run.jsonl") as recorder:
        for message in messages(late=LATE):
            recorder.write(message)
    command = [
        sys.executable,
        "-m",
        "switchml.cli",
        "replay",
        str(tmp_path / "run.jsonl"),
        "--web",
        "--speed",
        "50",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            browser.get(line.split()[4].rstrip(";"))
            until(browser, lambda: "replay of run.jsonl, at its end" in text(browser, "body"))
            assert f"Rank {LATE} is late" in text(browser, ".job")
        finally:
            process.terminate()
            assert process.wait(60) == 143
