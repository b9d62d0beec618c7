"""The page in a real Chromium, driven as a person would: keys, files, drops; and what other pages may not do."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vitrail
from tests.support.browser import drive
from tests.support.serving import CLASSES, CONVOLUTIONS, NUMBERS, Running, picture, running, save_model, until
from vitrail.inspection.maps import attention
from vitrail.serving import samples

pytestmark = pytest.mark.flow

SETTLED = "return document.querySelectorAll('tbody tr').length > 0 && !document.querySelector('.busy')"
ANSWERS = """return [...document.querySelectorAll('.panel:first-child tbody tr')]
  .map((row) => [row.querySelector('th span').textContent, row.cells[1].textContent])"""
CHOOSE = """const one = document.getElementById(arguments[0]); one.value = arguments[1];
one.dispatchEvent(new Event(one.type === "range" ? "input" : "change"))"""
LISTEN = """
const live = document.getElementById("live");
window.said = [];
new MutationObserver(() => window.said.push(live.textContent)).observe(live, { childList: true });
"""
GIVE = """
const [kind, bytes, type] = arguments, file = new File([Uint8Array.from(bytes)], "x", { type }), data = new DataTransfer();
data.items.add(file);
document.dispatchEvent(kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
"""


OPTIONS = (
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with drive(tmp_path_factory.mktemp("downloads"), *OPTIONS) as found:
        yield found


@pytest.fixture
def page(browser: Any, served: Running) -> Any:
    """The page as it comes, the first drawing answered."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get("about:blank")
    browser.get(f"{served.url}/#lang=en")
    assert until(lambda: browser.execute_script(SETTLED))
    return browser


def settle(page: Any) -> None:
    """Waits for the answer to what was just done."""
    import time

    time.sleep(0.25)
    assert until(lambda: page.execute_script(SETTLED))


def shares(bundle: Path, content: bytes, tmp_path: Path) -> list[list[str]]:
    """The answers of `vitrail.predict`, as the page writes them."""
    (tmp_path / "image").write_bytes(content)
    (found,) = vitrail.predict(bundle, tmp_path / "image", top=5, precision="fp32", batch=1, quiet=True)
    return [
        [label, f"{100 * share:.{1 if share < 0.1 else 0}f} %"]
        for label, share in zip(found.labels, found.probabilities, strict=True)
    ]


def test_a_drawing_is_answered_before_anybody_acts(page: Any, bundle: Path, served: Running, tmp_path: Path) -> None:
    """The answers are `predict`'s; a class name is text; nothing is asked of another origin; nothing is violated."""
    assert page.execute_script(ANSWERS) == shares(bundle, samples.SAMPLES["bird"], tmp_path)
    assert CLASSES[2] in page.find_element("css selector", "tbody").text
    assert not page.execute_script("return document.querySelectorAll('th img').length")
    events = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((served.url, "data:", "blob:", "about:")) for url in asked), asked
    assert not [line for line in page.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    facts = page.find_element("id", "facts").text
    assert served.service.models.find("small").sha256[:16] in facts and "48 × 32" in facts


def test_a_map_is_that_of_inspect(page: Any, bundle: Path) -> None:
    """The patch that the page names is the one where the exact map is largest."""
    from vitrail.images.decode import decode

    model = vitrail.load(bundle)
    pixels = model.record.preprocess.resize_image(decode(samples.SAMPLES["bird"]))[None]
    maps = attention(model, pixels, layers=[1, 2])
    for layer, found in enumerate(maps, 1):
        page.execute_script(CHOOSE, "layer", layer)
        heads = page.find_elements("css selector", "#heads button")
        assert len(heads) == 3
        for head in (1, 2):
            heads[head].click()
            best = int(found.patches[0, head - 1, 0].argmax())
            said = page.find_element("css selector", ".caption").text
            assert f"class token looks most at row {best // 6}, column {best % 6}:" in said, said
            share = f"{100 * float(found.patches[0, head - 1, 0].max()):.0f}"
            assert said.split(": ")[1].split(" ")[0].split(".")[0] in (share, str(int(share) - 1), str(int(share) + 1))


def test_keys_alone_lead_from_the_drawing_to_two_pinned_patches(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    for _ in range(40):
        press(Keys.TAB)
        if page.execute_script("return document.activeElement.className") == "stage":
            break
    else:
        raise AssertionError("the stage is not reached by Tab")
    press(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ENTER, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    pinned = [one.text for one in page.find_elements("css selector", ".pins figcaption")]
    assert pinned == ["pinned: patch in row 1, column 3", "pinned: patch in row 1, column 5"]
    assert (
        page.find_element("id", "live")
        .get_attribute("textContent")
        .startswith("patch in row 1, column 5 looks most at row")
    )
    press(Keys.ESCAPE)
    assert not page.find_elements("css selector", ".pins figcaption")


@pytest.mark.parametrize("way", ["drop", "paste", "file"])
def test_a_picture_is_dropped_pasted_or_opened(page: Any, way: str, bundle: Path, tmp_path: Path) -> None:
    content = picture(7, (90, 60), "JPEG")
    if way == "file":
        (tmp_path / "own.jpg").write_bytes(content)
        page.find_element("id", "file").send_keys(str(tmp_path / "own.jpg"))
    else:
        page.execute_script(GIVE, way, list(content), "image/jpeg")
    settle(page)
    assert page.execute_script(ANSWERS) == shares(bundle, content, tmp_path)


def test_a_bad_file_is_named_and_a_good_one_follows(page: Any, bundle: Path, tmp_path: Path) -> None:
    problem = page.find_element("id", "problem")
    page.execute_script(GIVE, "drop", list(b"not a picture"), "text/plain")
    assert until(lambda: problem.text == "Pictures are JPEG, PNG or WebP.")
    page.execute_script(GIVE, "drop", list(picture()[:200]), "image/png")
    assert until(lambda: problem.text == "This file is not a picture that can be read.")
    page.execute_script(GIVE, "drop", list(picture(1)), "image/png")
    settle(page)
    assert not problem.is_displayed() and page.execute_script(ANSWERS) == shares(bundle, picture(1), tmp_path)


def test_what_if(page: Any) -> None:
    """Hidden patches move the bars; shuffled patches matter with positions, and not without."""
    from selenium.webdriver.common.keys import Keys

    plain = page.execute_script(ANSWERS)
    stage = page.find_element("css selector", ".stage")
    stage.send_keys(Keys.ARROW_UP, Keys.SPACE, Keys.ARROW_LEFT, Keys.SPACE, Keys.ARROW_LEFT, Keys.SPACE)
    settle(page)
    assert page.execute_script(ANSWERS) != plain
    assert page.execute_script("return [...document.querySelectorAll('.bar u')].some((one) => !one.hidden)")
    page.find_element("id", "reset").click()
    settle(page)
    assert page.execute_script(ANSWERS) == plain
    page.find_element("id", "shuffle").click()
    settle(page)
    assert page.execute_script(ANSWERS) != plain
    page.find_element("id", "positions").click()
    settle(page)
    mixed = sorted(page.execute_script(ANSWERS))
    page.find_element("id", "shuffle").click()
    settle(page)
    assert sorted(page.execute_script(ANSWERS)) == mixed


def test_a_patch_is_hidden_and_shown_again_in_either_picture(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page.execute_script(CHOOSE, "other", "other")
    settle(page)
    page.find_element("id", "brush").click()
    page.execute_script(LISTEN)
    stages = page.find_elements("css selector", ".stage")
    for stage in (stages[1], stages[1], stages[0], stages[1]):
        ActionChains(page).move_to_element(stage).click().perform()
    said = page.execute_script("return window.said")
    assert [text for text in said if "hidden" in text] == [f"{count} patches hidden" for count in (1, 0, 1, 0)]


def test_the_camera_is_looked_at_until_another_picture_comes(page: Any, served: Running) -> None:
    """Chromium's own test picture in the place of a camera; then none that may be used."""
    images, camera = served.service.metrics.images.labels("small"), page.find_element("id", "camera")
    plain, before = page.execute_script(ANSWERS), images._value.get()
    camera.click()
    assert until(lambda: images._value.get() > before + 3)
    assert page.execute_script(ANSWERS) != plain
    page.find_element("css selector", "[data-sample=bird]").click()
    assert until(lambda: camera.get_attribute("aria-pressed") == "false")
    settle(page)
    assert page.execute_script(ANSWERS) == plain
    assert page.execute_script("return document.getElementById('video').srcObject") is None
    page.execute_script("navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('denied'))")
    camera.click()
    problem = page.find_element("id", "problem")
    assert until(lambda: problem.text == "The camera cannot be used.")
    page.execute_script(CHOOSE, "language", "ko")
    assert problem.text == "카메라를 쓸 수 없습니다." and camera.get_attribute("aria-pressed") == "false"


def test_a_model_without_maps_answers_on_the_page(browser: Any, tmp_path: Path) -> None:
    """A ResNet: labels and bars, no maps; keys and clicks do no harm."""
    from selenium.webdriver.common.keys import Keys

    with running({"conv": save_model(tmp_path / "conv", config=CONVOLUTIONS)}) as server:
        browser.get_log("browser")
        browser.get(f"{server.url}/#lang=en")
        assert until(lambda: browser.execute_script(SETTLED))
        assert len(browser.execute_script(ANSWERS)) == 4
        stage = browser.find_element("css selector", ".stage")
        stage.click()
        stage.send_keys(Keys.ARROW_UP, Keys.ENTER, Keys.SPACE)
        assert browser.find_element("css selector", ".caption").text.startswith("no maps: ")
        assert not browser.find_element("id", "shuffle").is_enabled()
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def test_a_number_is_the_answer_of_a_model_of_numbers(browser: Any, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "numbers", config=NUMBERS, numeric=True, classes=())
    with running({"numbers": folder}) as server:
        browser.get(f"{server.url}/#lang=en")
        shown = browser.find_element
        assert until(lambda: browser.execute_script("return !!document.querySelector('caption')?.textContent"))
        value = server.post("/predict", samples.SAMPLES["bird"]).json["answers"][0]["value"]
        assert float(shown("css selector", "caption").text.removeprefix("Answers: ")) == pytest.approx(value, rel=1e-3)
        shown("id", "shuffle").click()
        assert until(lambda: " ← " in shown("css selector", "caption").text)


def test_two_models_stand_side_by_side_and_in_three_languages(page: Any, other: Path, tmp_path: Path) -> None:
    page.execute_script(CHOOSE, "other", "other")
    settle(page)
    second = ANSWERS.replace("first-child", "last-child")
    assert page.execute_script(second) == shares(other, samples.SAMPLES["bird"], tmp_path)
    for language, word in (("ja", "答え"), ("ko", "답"), ("en", "Answers")):
        page.execute_script(CHOOSE, "language", language)
        assert page.find_element("css selector", "caption").text == word
        assert page.execute_script("return document.documentElement.lang") == language


def test_every_language_has_every_word() -> None:
    """The table is read as the page has it; a key of one is a key of all, and every data-w is there."""
    import re

    script = (Path(samples.__file__).parent / "page" / "page.js").read_text("utf-8")
    html = (Path(samples.__file__).parent / "page" / "index.html").read_text("utf-8")
    tables = {
        line[:2]: set(re.findall(r'(?:^|[{,] )"?([\w -]+)"?: "', line[3:]))
        for line in script.splitlines()
        if re.match("(en|ja|ko): {", line)
    }
    assert set(tables) == {"en", "ja", "ko"} and len(tables["en"]) > 50
    assert tables["en"] == tables["ja"] == tables["ko"]
    assert set(re.findall(r'data-w(?:-label)?="(\w+)"', html)) <= tables["en"]
    sizes = [
        len((Path(samples.__file__).parent / "page" / name).read_bytes())
        for name in ("index.html", "page.css", "page.js")
    ]
    assert sum(sizes) <= 60_000


def test_the_page_is_saved_as_one_file_that_needs_no_server(page: Any, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    answers = page.execute_script(ANSWERS)
    page.find_element("id", "save").click()
    assert until(lambda: list(tmp_path.glob("*.html")))
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(f"file://{next(tmp_path.glob('*.html'))}")
    assert browser.execute_script(ANSWERS) == answers
    browser.find_element("css selector", ".stage").send_keys(Keys.ARROW_UP)
    assert "patch in row 2, column 3 looks most" in browser.find_element("css selector", ".caption").text
    assert not browser.find_element("id", "pick").is_displayed()
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert not [url for url in asked if url.startswith("http")]
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


ATTACK = b"""<!doctype html><title>elsewhere</title><form method="post" enctype="multipart/form-data"></form><script>
window.attack = async (url) => {
  const found = {};
  for (const [name, options] of Object.entries({
    simple: { method: "POST", mode: "no-cors", body: new Blob(["x"]) },
    json: { method: "POST", mode: "cors", headers: { "content-type": "application/json" }, body: "{}" },
    read: { mode: "cors" },
  })) {
    try {
      const answer = await fetch(url + (name === "read" ? "/models" : "/predict"), options);
      found[name] = answer.type + (await answer.text()).length;
    }
    catch (error) { found[name] = "refused"; }
  }
  return found;
};
</script>"""


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(ATTACK)

    timeout = 1

    def log_message(self, *_: object) -> None: ...


def test_row_3_a_page_of_another_origin_can_neither_ask_nor_read(browser: Any, served: Running) -> None:
    """In a real browser: a simple post without a preflight, a post with one, and reading."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    server.daemon_threads = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images = served.service.metrics.images.labels("small")._value.get()
    try:
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        found = browser.execute_async_script(
            "const done = arguments[1]; window.attack(arguments[0]).then(done)", served.url
        )
    finally:
        browser.get("about:blank")
        server.shutdown()
        server.server_close()
    assert found == {"simple": "opaque0", "json": "refused", "read": "refused"} or found["simple"] == "refused"
    assert served.service.metrics.images.labels("small")._value.get() == images
    assert served.service.metrics.requests.labels("other", "403")._value.get() > 0


def test_row_2_a_rebound_name_gets_nothing(browser: Any, served: Running) -> None:
    """DNS rebinding in a real browser: evil.example leads to 127.0.0.1 here."""
    browser.get(f"http://evil.example:{served.port}/models")
    assert "does not answer to that name" in browser.page_source and "sha256" not in browser.page_source


def test_a_page_behind_a_token_asks_for_it(browser: Any, bundle: Path) -> None:
    with running({"small": bundle}, token="a-token-of-some-length") as server:
        browser.get(server.url)
        box = browser.find_element("id", "token-value")
        assert until(box.is_displayed)
        assert not browser.find_element("id", "problem").is_displayed()  # no wrong one was given yet
        assert browser.execute_script("return [...document.images].every((one) => one.naturalWidth > 0)")
        box.send_keys("a-token-of-some-length\n")
        assert until(lambda: browser.execute_script(SETTLED))
        assert "token" not in browser.current_url


@pytest.mark.deep
def test_axe_finds_nothing(page: Any) -> None:
    """WCAG 2.1 AA and axe's own advice. `npm pack axe-core`, and VITRAIL_AXE names its axe.min.js."""
    from selenium.webdriver.common.keys import Keys

    if not (script := os.environ.get("VITRAIL_AXE")):
        pytest.skip("axe-core is in no package of Python: VITRAIL_AXE=axe.min.js")
    keys = (Keys.ARROW_UP, Keys.ENTER, Keys.ARROW_LEFT, Keys.ENTER, Keys.SPACE)
    found = []
    for scheme, language, width in (("light", "en", 1200), ("dark", "ja", 1200), ("light", "ko", 400)):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        page.set_window_size(width, 1400)
        page.execute_script(CHOOSE, "language", language)
        page.find_element("css selector", ".stage").send_keys(*keys)
        settle(page)
        page.execute_script(Path(script).read_text("utf-8"))
        run = "const done = arguments[0]; axe.run().then((all) => done(all.violations.map((one) => one.id + one.nodes[0].html)))"
        found += page.execute_async_script(run)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.set_window_size(1200, 1400)
    assert not found


@pytest.mark.deep
def test_a_hundred_pictures_do_not_grow_the_heap(page: Any) -> None:
    def heap() -> int:
        page.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        return page.execute_script("return performance.memory.usedJSHeapSize")

    sizes = []
    for turn in range(100):
        page.execute_script(GIVE, "drop", list(picture(turn)), "image/png")
        settle(page)
        if turn % 20 == 19:
            sizes.append(heap())
    print(f"\nheap after 20, 40, … pictures: {sizes}")
    assert sizes[-1] < 1.2 * sizes[0]
