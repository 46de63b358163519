"""The page at GET /: its HTML, and its behaviour in a browser (skipped without Chromium)."""

import contextlib
import json
import re
import shutil
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
import requests
from flask import Flask, Response, request
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from rnn_serving.endpoint.operations import PAGE, PAGE_POLICY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs Chromium and chromedriver on PATH")

IMAGE_INPUT = {"name": "Input_X:0", "dtype": "float32", "shape": [None, 28, 28]}
TEXT_INPUT = {"name": "text:0", "dtype": "string", "shape": [None]}
IRIS_INPUT = {"name": "x:0", "dtype": "float32", "shape": [None, 4]}
DASH = "\N{EN DASH}"
SEVEN = [[0, 0, 0, 0, 0, 0, 0, 0.75, 0.25, 0]]
# Strokes are points as fractions of the drawing area, from its top left.
ONE = [(0.52, 0.15), (0.5, 0.85)]
SMALL_SEVEN = [(0.1, 0.3), (0.25, 0.3), (0.15, 0.55)]


class Elements(HTMLParser):
    """All start tags of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def elements():
    return Elements(PAGE.read_text())


def test_it_loads_nothing_from_elsewhere(elements):
    assert not re.search(r"https?:|[\"'(`]//|@import|url\(|\bimport\b", PAGE.read_text())
    addresses = [value for _, attributes in elements.found for key, value in attributes.items() if key in LOADING]
    assert addresses == ["data:,"]  # no icon


LOADING = {"src", "href", "srcset", "action", "data", "poster"}


def test_it_runs_under_its_policy(elements):
    assert "'unsafe-inline'" in PAGE_POLICY
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on") or key == "style"]


def test_it_supports_phones_and_screen_readers(elements):
    assert elements.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.named("meta")
    assert [label["for"] for label in elements.named("label")] == [field["id"] for field in elements.named("textarea")]
    assert all(canvas["role"] and canvas["aria-label"] for canvas in elements.named("canvas"))
    assert [attributes["aria-live"] for _, attributes in elements.found if "aria-live" in attributes] == ["polite"]
    assert "prefers-color-scheme: dark" in PAGE.read_text()
    assert ":focus-visible" in PAGE.read_text()


def test_it_explains_how_to_draw_with_the_keyboard(elements):
    (drawing,) = [canvas for canvas in elements.named("canvas") if canvas["id"] == "drawing"]
    hint = re.search(rf'<p id="{drawing["aria-describedby"]}"[^>]*>(.*?)</p>', PAGE.read_text(), re.DOTALL)[1]
    assert drawing["tabindex"] == "0"
    assert all(key in hint for key in ("arrow keys", "Space", "Delete", "Escape", "C clears"))


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # As root in a container, neither the sandbox nor /dev/shm can be used.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield browser
    browser.quit()


class Page:
    """The page in a browser, as its user sees it."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get_log("browser")  # discards earlier messages
        browser.get(url)

    def element(self, name):
        return self.browser.find_element(By.ID, name)

    def text(self, name):
        return self.element(name).get_property("textContent")

    def wait_for(self, name, pattern):
        """Return the match of an element's text with a pattern, once there is one."""
        wait = WebDriverWait(self.browser, 8, poll_frequency=0.03)
        return wait.until(lambda _: re.search(pattern, self.text(name)), f"no {pattern!r} in #{name}")

    def wait_until_ready(self):
        self.wait_for("model", "Model .*version")
        return self

    def draw(self, *points):
        """Draw one stroke with the mouse."""
        canvas, side = self.element("drawing"), self.element("drawing").size["width"]
        offsets = [(round((x - 0.5) * side), round((y - 0.5) * side)) for x, y in points]
        actions = ActionChains(self.browser, duration=40)
        actions.move_to_element_with_offset(canvas, *offsets[0]).click_and_hold()
        for offset in offsets[1:]:
            actions.move_to_element_with_offset(canvas, *offset)
        actions.release().perform()

    def press(self, *keys):
        actions = ActionChains(self.browser)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def record_requests(self):
        self.browser.execute_script(
            "window.sent = []; const send = fetch; window.fetch = (url, options) => {"
            " if (options.body) sent.push(options.body); return send(url, options); };"
        )

    def last_sent(self):
        return np.array(json.loads(self.browser.execute_script("return sent.at(-1)"))["data"])


class FakeEndpoint:
    """An endpoint with any signature and any answers; `received` lists the `data` of the requests."""

    def __init__(self, signature_input, answer):
        self.received, self.signature_input, self.answer = [], signature_input, answer
        self.app = Flask("fake")
        self.app.add_url_rule("/", view_func=self.page)
        self.app.add_url_rule("/", view_func=self.predict, methods=["POST"], endpoint="predict")
        self.app.add_url_rule("/metadata", view_func=self.metadata)

    def page(self):
        return Response(PAGE.read_bytes(), mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    def metadata(self):
        signature = {"inputs": {"x": self.signature_input}, "outputs": {}}
        return {"model": "fake", "version": 1, "dataset": None, "signature": signature}

    def predict(self):
        data = request.get_json()["data"]
        self.received.append(data)
        answer, status = self.answer(data)
        return answer, status, {"X-Model-Version": "12"}


@contextlib.contextmanager
def serving(endpoint, prefix=""):
    """Serve a fake endpoint from a thread, under a path prefix if there is one; yield its URL."""
    app = DispatcherMiddleware(Flask("nothing"), {prefix: endpoint.app}) if prefix else endpoint.app
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def assert_like_mnist(image):
    """Assert that an image has MNIST's size, scale and centre of mass."""
    assert image.shape == (28, 28)
    assert image.min() == 0
    assert 0.9 < image.max() <= 1
    rows, columns = np.nonzero(image.any(axis=1))[0], np.nonzero(image.any(axis=0))[0]
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    centre = (np.indices(image.shape) * image).sum(axis=(1, 2)) / image.sum()
    np.testing.assert_allclose(centre, 14, atol=0.5)


@in_a_browser
def test_it_recognizes_a_one_drawn_with_the_mouse(chromium, flask_url):
    page = Page(chromium, flask_url).wait_until_ready()
    page.record_requests()
    page.draw(*ONE)
    page.wait_for("spoken", "I read")
    image = page.last_sent()
    assert_like_mnist(image)
    (probabilities,) = requests.post(flask_url, json={"data": image.tolist()}, timeout=10).json()["y"]
    assert int(page.text("digit")) == np.argmax(probabilities) == 1
    shown = [float(item.text) for item in chromium.find_elements(By.CLASS_NAME, "number")]
    np.testing.assert_allclose(shown, np.multiply(probabilities, 100), atol=1)
    assert page.text("sentence") == f"I read a 1, {int(shown[1])}\N{NO-BREAK SPACE}%"
    assert page.text("model") == "Model mnist, version 1, data set digits."
    assert re.fullmatch(r"Answered in \d+\.\d ms\.", page.text("facts"))
    assert chromium.get_log("browser") == []


@in_a_browser
def test_before_the_first_answer_there_are_dashes_and_a_hint(chromium):
    endpoint = FakeEndpoint(IMAGE_INPUT, lambda _: ({"y": SEVEN}, 200))
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        assert page.element("hint").text == "draw a digit here"
        assert page.text("sentence") == DASH
        assert {item.text for item in chromium.find_elements(By.CLASS_NAME, "percent")} == {DASH}
        page.draw(*ONE)
        page.wait_for("spoken", r"I read a 7, 75\s%")
        assert not page.element("hint").is_displayed()


@in_a_browser
def test_sample_digits_are_drawn_by_a_click(chromium, flask_url):
    page = Page(chromium, flask_url).wait_until_ready()
    page.record_requests()
    sent, samples = [], chromium.find_elements(By.CSS_SELECTOR, "#samples button")
    assert [sample.get_attribute("aria-label") for sample in samples] == [f"Sample {digit}" for digit in range(10)]
    for sample in samples:
        page.element("clear").click()
        sample.click()
        page.wait_for("spoken", r"I read an? \d")
        sent.append(page.last_sent())
    assert all(image.shape == (28, 28) and image.max() > 0.9 for image in sent)
    assert len({image.tobytes() for image in sent}) == 10


@in_a_browser
def test_a_small_drawing_in_a_corner_is_enlarged_and_centred(chromium):
    endpoint = FakeEndpoint(IMAGE_INPUT, lambda _: ({"y": SEVEN}, 200))
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        page.draw(*SMALL_SEVEN)
        page.wait_for("spoken", r"I read a 7, 75\s%")
    assert_like_mnist(np.array(endpoint.received[-1]))
    assert page.text("model") == "Model fake, version 12."


@in_a_browser
def test_a_flat_input_is_sent_flat(chromium):
    endpoint = FakeEndpoint(IMAGE_INPUT | {"shape": [None, 784]}, lambda _: ({"y": SEVEN}, 200))
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        page.draw(*ONE)
        page.wait_for("spoken", "I read a 7")
    assert_like_mnist(np.reshape(endpoint.received[-1], (28, 28)))


@in_a_browser
def test_it_draws_with_the_keyboard_and_clears(chromium):
    endpoint = FakeEndpoint(IMAGE_INPUT, lambda _: ({"y": SEVEN}, 200))
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        page.press(Keys.TAB, *[Keys.ARROW_LEFT] * 4, Keys.SPACE, *[Keys.ARROW_DOWN] * 12, Keys.SPACE)
        page.wait_for("spoken", "I read a 7")
        upright = np.array(endpoint.received[-1])
        page.press("c")
        page.wait_for("digit", f"^{DASH}$")
        received = len(endpoint.received)
        page.press(*[Keys.ARROW_UP] * 2)
        assert page.text("facts") == page.text("spoken") == ""
        assert len(endpoint.received) == received
    assert_like_mnist(upright)
    assert np.count_nonzero(upright.any(axis=0)) <= 4


@in_a_browser
def test_an_answer_that_arrives_after_clearing_is_not_shown(chromium):
    is_requested, is_cleared = threading.Event(), threading.Event()

    def answer_late(_):
        is_requested.set()
        assert is_cleared.wait(8)
        return {"y": SEVEN}, 200

    with serving(FakeEndpoint(IMAGE_INPUT, answer_late)) as url:
        page = Page(chromium, url).wait_until_ready()
        page.draw(*ONE)
        assert is_requested.wait(8)
        page.element("clear").click()
        is_cleared.set()
        page.draw(*ONE)
        page.wait_for("spoken", "I read a 7")
        page.element("clear").click()
        assert page.text("digit") == DASH


@in_a_browser
def test_only_one_request_is_in_flight(chromium):
    lock, in_flight, most = threading.Lock(), [], []

    def answer_slowly(_):
        with lock:
            in_flight.append(None)
            most.append(len(in_flight))
        threading.Event().wait(0.2)
        with lock:
            in_flight.pop()
        return {"y": SEVEN}, 200

    endpoint = FakeEndpoint(IMAGE_INPUT, answer_slowly)
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        for height in (0.2, 0.5, 0.8):
            page.draw((0.2, height), (0.5, height), (0.8, height))
        WebDriverWait(chromium, 8).until(lambda _: np.count_nonzero(np.array(endpoint.received[-1])[:, 14]) >= 7)
        page.wait_for("spoken", "I read a 7")
    assert set(most) == {1}


@in_a_browser
@pytest.mark.parametrize(
    ("answer", "status", "shown"),
    [
        (
            {"error": "'data' has a NaN; expected numbers"},
            422,
            "The server answered 422: 'data' has a NaN; expected numbers.",
        ),
        ({"error": "too many wait"}, 503, "The server answered 503: too many wait."),
        ("<h1>Bad gateway</h1>", 502, "The server answered 502: the answer is not valid JSON."),
        ({"y": [3]}, 200, 'Expected scores, got {"y":[3]}.'),
    ],
)
def test_it_shows_errors(chromium, answer, status, shown):
    with serving(FakeEndpoint(IMAGE_INPUT, lambda _: (answer, status))) as url:
        page = Page(chromium, url).wait_until_ready()
        page.draw(*ONE)
        page.wait_for("error", re.escape(shown))
        assert page.text("facts") == ""


@in_a_browser
def test_it_waits_for_a_model_that_is_loading(chromium):
    endpoint = FakeEndpoint(TEXT_INPUT, None)
    answers = iter([({"error": "the model is still loading"}, 503), endpoint.metadata()])
    endpoint.app.view_functions["metadata"] = lambda: next(answers)
    with serving(endpoint) as url:
        page = Page(chromium, url)
        page.wait_for("error", "The server answered 503: the model is still loading.")
        page.wait_until_ready()
        assert page.text("error") == ""


@in_a_browser
@pytest.mark.parametrize(
    ("entry", "shown"),
    [("SNURT SI", "SNURT SI"), (["two", "lines"], "two\nlines"), (0.5, "0.5"), ({"b64": "/w=="}, '"b64": "/w=="')],
)
def test_text_is_sent_with_enter(chromium, entry, shown):
    endpoint = FakeEndpoint(TEXT_INPUT, lambda _: ({"y": [entry]}, 200))
    with serving(endpoint, prefix="/models/text") as url:
        page = Page(chromium, url).wait_until_ready()
        assert not page.element("drawing").is_displayed()
        page.element("field").send_keys("is trüns", Keys.ENTER)
        page.wait_for("talk", rf"^is trüns(?s:.*){re.escape(shown)}")
        assert page.text("facts").startswith("Answered in ")
    assert endpoint.received == [["is trüns"]]
    assert "version 12" in page.text("model")


@in_a_browser
def test_the_conversation_stays_and_a_refused_text_stays_in_the_field(chromium):
    def answer(data):
        return ({"error": "'data' is rude"}, 422) if data == ["rude"] else ({"y": [data[0].upper()]}, 200)

    with serving(FakeEndpoint(TEXT_INPUT, answer)) as url:
        page = Page(chromium, url).wait_until_ready()
        for typed in ("one", "two"):
            page.element("field").send_keys(typed, Keys.ENTER)
            page.wait_for("talk", typed.upper())
        page.element("field").send_keys("rude", Keys.ENTER)
        page.wait_for("error", "^The server answered 422: 'data' is rude\\.$")
        assert page.text("talk") == "oneONEtwoTWO"
        assert page.element("field").get_property("value") == "rude"
        below = "return field.getBoundingClientRect().bottom <= error.getBoundingClientRect().top"
        assert chromium.execute_script(below)


@in_a_browser
def test_any_other_model_takes_json(chromium):
    endpoint = FakeEndpoint(IRIS_INPUT, lambda data: ({"y": data}, 200))
    with serving(endpoint) as url:
        page = Page(chromium, url).wait_until_ready()
        assert page.text("field-label") == "JSON, x: float32 (any, 4)"
        page.element("field").send_keys("[[1, 2, 3")
        page.element("form").submit()
        page.wait_for("error", "This is not valid JSON")
        page.element("field").send_keys(", 4]]", Keys.CONTROL + Keys.ENTER)
        page.wait_for("talk", re.escape(json.dumps([[1, 2, 3, 4]], indent=2)))
        assert page.text("error") == ""
    assert endpoint.received == [[[1, 2, 3, 4]]]


@in_a_browser
@pytest.mark.parametrize("signature_input", [IMAGE_INPUT, TEXT_INPUT, IRIS_INPUT])
def test_it_fits_a_phone(chromium, signature_input):
    with serving(FakeEndpoint(signature_input, None)) as url, phone(chromium):
        page = Page(chromium, url).wait_until_ready()
        width = "return [document.documentElement.scrollWidth, window.innerWidth]"
        assert chromium.execute_script(width) == [400, 400]
        height = "return [document.documentElement.scrollHeight, window.innerHeight]"
        assert chromium.execute_script(height) == [664, 664]
        assert not page.element("keys").is_displayed()


@in_a_browser
def test_it_draws_with_a_finger(chromium):
    endpoint = FakeEndpoint(IMAGE_INPUT, lambda _: ({"y": SEVEN}, 200))
    with serving(endpoint) as url, phone(chromium):
        page = Page(chromium, url).wait_until_ready()
        box = page.element("drawing").rect
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ONE]
        for kind, touches in [("touchStart", points[:1]), ("touchMove", points[1:]), ("touchEnd", [])]:
            touches = [{"x": x, "y": y} for x, y in touches]
            chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        page.wait_for("spoken", "I read a 7")
        assert chromium.execute_script("return window.scrollY") == 0
    assert_like_mnist(np.array(endpoint.received[-1]))


@contextlib.contextmanager
def phone(browser):
    """Emulate a phone: 400 by 664 pixels, with a touch screen."""
    size = {"width": 400, "height": 664, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "hover", "value": "none"}]})
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
