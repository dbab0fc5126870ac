"""The application's page in headless Chromium, as somebody with a keyboard and a pointer has it."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
SECONDS = 60.0  # that anything may take to appear


class Page:
    """The page at one width."""

    def __init__(self, driver: Any, port: int):
        self.driver, self.port = driver, port
        driver.get(f"http://127.0.0.1:{port}/")
        self.until(lambda: self.shown("button[role=tab]"))

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition is as soon as it is true."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                value = condition()
            except StaleElementReferenceException:  # the page has drawn it anew meanwhile
                value = None
            if value:
                return value
            assert time.monotonic() < end, self.driver.find_element(By.TAG_NAME, "body").text
            time.sleep(0.05)

    def shown(self, selector: str) -> list[WebElement]:
        """The elements that can be seen."""
        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def open(self, tab: str) -> None:
        """Open a tab, from the menu where it has no room beside the others."""

        def found() -> list[WebElement]:
            tabs = self.shown("button[role=tab], .overflow-dropdown button")
            return [button for button in tabs if button.text.strip() == tab]

        self.until(lambda: self.shown("button[role=tab]"))
        if not found():
            self.shown(".overflow-menu > button")[0].click()
        self.until(found)[0].click()

    def button(self, text: str) -> WebElement:
        return self.until(lambda: [b for b in self.shown("button") if b.text.strip() == text])[0]

    def press(self, text: str) -> None:
        self.button(text).click()

    def field(self, label: str) -> WebElement:
        """A field by the beginning of its label."""

        def labelled() -> list[WebElement]:
            own = [part for part in self.shown("label") if part.text.startswith(label)]
            areas = [area for part in own for area in part.find_elements(By.TAG_NAME, "textarea")]
            return self.shown(f'[aria-label^="{label}"]') + areas

        return self.until(labelled)[0]

    def fill(self, label: str, value: Any) -> None:
        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(value), Keys.TAB)

    def pictures(self, least: int = 1) -> list[str]:
        """The addresses of the pictures that a tab shows, once there are so many."""

        def addresses() -> list[str]:
            return [str(picture.get_attribute("src")) for picture in self.shown(".pictures img, .sides img")]

        return self.until(lambda: addresses() if len(addresses()) >= least else None)

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focus(self) -> WebElement:
        return self.driver.switch_to.active_element

    def text(self, selector: str) -> str:
        return self.until(lambda: self.shown(selector))[0].text

    def console(self) -> list[str]:
        """What the page has written to the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked(self) -> set[str]:
        """Where the page has sent requests to."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [
            entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        ]
        return {url.split("/")[2] for url in sent if url.startswith(("http", "ws"))}

    def wider_than_the_window(self) -> bool:
        return self.driver.execute_script("return document.documentElement.scrollWidth > window.innerWidth")


@contextmanager
def opened(port: int, width: int, profile: Path) -> Iterator[Page]:
    """The page in a new browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield Page(driver, port)
    finally:
        driver.quit()
