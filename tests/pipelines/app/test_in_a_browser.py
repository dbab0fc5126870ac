"""The page in a browser: each tab does its work, by pointer and by keyboard, wide and narrow, with an empty console."""

from collections.abc import Iterator

import pytest
from app_browser import CHROMIUM, DRIVER, Page, opened
from app_client import Served
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs Chromium and its driver, which are not installed"
)


@pytest.fixture(scope="module")
def page(served_app: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(served_app.port, 1300, tmp_path_factory.mktemp("profile")) as page:
        yield page
        assert page.asked() == {f"127.0.0.1:{served_app.port}"}


@pytest.fixture(autouse=True)
def quiet(page: Page) -> Iterator[None]:
    yield
    assert page.console() == []


def test_images_are_drawn_by_keyboard_alone(page):
    for _ in range(40):  # from the top of the page on
        page.keys(Keys.TAB)
        if page.focus().get_attribute("aria-label") == "Images, at most 64":
            break
    page.keys("4")  # what is there is selected
    for _ in range(10):
        page.keys(Keys.TAB)
        if page.focus().text == "Draw images":
            break
    page.keys(Keys.ENTER)
    first = page.pictures(4)
    assert len(first) == len(set(first)) == 4
    page.keys(Keys.TAB)
    assert page.focus().get_attribute("download") == "drawn-0.png"
    page.fill("Images", 6)
    page.press("Draw images")
    assert page.pictures(6)[:4] == first
    page.fill("Seed", 1)
    page.press("Draw images")
    page.until(lambda: page.pictures(6)[0] != first[0])


def test_a_bad_value_is_answered_on_the_page(page):
    page.fill("Temperature", -1)
    page.press("Draw images")
    assert "temperature is -1" in page.until(lambda: [t.text for t in page.shown("[data-testid=toast-body]")])[0]
    page.fill("Temperature", 1)
    page.until(lambda: page.shown("[data-testid=toast-close]"))[0].click()
    page.until(lambda: not page.shown("[data-testid=toast-body]"))


def test_a_marked_part_is_drawn_anew(page):
    page.open("Edit")
    page.press("Take this test image")
    cells = page.until(lambda: page.shown(".cells"))[0]
    page.press("Mark the rows below")
    page.until(lambda: "8 of 16 marked" in page.text(".where"))
    page.driver.execute_script("arguments[0].focus()", cells)
    page.keys(" ", Keys.ARROW_RIGHT, " ")
    page.until(lambda: page.text(".where") == "row 1, column 2; 10 of 16 marked")
    page.keys(" ")
    page.until(lambda: page.text(".where") == "row 1, column 2; 9 of 16 marked")
    page.fill("Images", 3)
    page.press("Draw the marked part")
    assert len(set(page.pictures(3))) == 3


def test_a_token_is_replaced(page):
    page.open("Tokens")
    page.press("Take this test image")
    cells = page.until(lambda: page.shown(".cells"))[0]
    codes = page.field("Codes")
    before = page.until(lambda: codes.get_property("value")).split()
    ActionChains(page.driver).move_to_element_with_offset(cells, 20, 20).click().perform()  # from its middle
    page.until(lambda: page.shown(".pictures button"))
    assert page.text(".where") == f"row 3, column 3: code {before[10]}"
    button = page.shown(".pictures button")[3]
    code = str(button.get_attribute("data-choice"))
    button.send_keys(Keys.ENTER)
    page.until(lambda: codes.get_property("value").split() == [*before[:10], code, *before[11:]])
    page.press("Show the map of all codes")
    code_map = page.until(lambda: page.shown(".cells")[1:])[0]
    page.driver.execute_script("arguments[0].focus()", code_map)
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    other = page.until(lambda: [w.text for w in page.shown(".where") if w.text.startswith("row 2, column 2: code")])[0]
    page.keys(Keys.ENTER)
    page.until(lambda: codes.get_property("value").split()[10] == other.split()[-1])
    codes.send_keys(Keys.CONTROL, "a")
    codes.send_keys(" ".join(before))
    page.press("Decode these codes")
    page.until(lambda: page.text(".where").startswith("row 3, column 3: code " + before[10]))


def test_an_own_picture_is_reconstructed(page, tmp_path):
    Image.new("RGB", (50, 30), (200, 30, 90)).save(tmp_path / "own.png")
    (tmp_path / "none.png").write_text("no picture")
    page.open("Reconstruct")
    fields = [f for f in page.driver.find_elements(By.CSS_SELECTOR, "input[type=file]") if f.is_displayed()]
    fields[0].send_keys(str(tmp_path / "own.png"))
    assert len(page.pictures(2)) == 2
    assert "16 tokens of 32 codes are 80 bits" in page.text(".sides")
    fields[0].send_keys(str(tmp_path / "none.png"))
    assert "no image" in page.until(lambda: [t.text for t in page.shown("[data-testid=toast-body]")])[0]
    page.until(lambda: page.shown("[data-testid=toast-close]"))[0].click()
    (tmp_path / "big.png").write_bytes(bytes(2_000_000))
    fields[0].send_keys(str(tmp_path / "big.png"))
    page.until(lambda: "big.png has 2.0 MB; at most 1 MB are read" in page.text("[role=alert]"))


def test_codes_are_counted(page):
    page.open("Codebook")
    page.fill("Test images", 100)
    page.press("Count")
    assert len(page.pictures(2)) == 2
    page.until(lambda: "1,600 tokens of 100 test images" in page.driver.find_element(By.TAG_NAME, "body").text)


def test_pipelines_are_compared(page):
    page.open("Compare")
    page.fill("Images", 3)
    page.press("Draw with both")
    pictures = page.pictures(6)
    assert len(set(pictures)) == 6


@pytest.mark.slow
def test_a_narrow_window_has_all_of_it(served_app, tmp_path):
    with opened(served_app.port, 400, tmp_path / "profile") as narrow:
        narrow.press("Draw images")
        assert len(narrow.pictures(20)) == 20
        for tab in ("Edit", "Tokens", "Reconstruct"):
            narrow.open(tab)
            narrow.press("Take this test image")
            narrow.until(lambda: narrow.shown(".cells, .sides"))
            assert not narrow.wider_than_the_window()
        narrow.open("Compare")
        narrow.press("Draw with both")
        assert len(narrow.pictures(24)) == 24
        assert not narrow.wider_than_the_window()
        assert narrow.console() == []
