"""The service's page in a real browser: a CT is dropped, its masks are drawn and its volumes stand in the table."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_serve as small
import torch
import uvicorn

from ctune.serve.app import build_app
from ctune.serve.model import load
from ctune.serve.parts import TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings
from ctune.serve.tokens import Tokens

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
FLAGS = (
    "--headless=new", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-quic",
    "--disable-background-networking", "--window-size=1366,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    source = RegistrySource(small.fill(tmp_path_factory.mktemp("registry")), "small")
    model = load(source, TorchLoader(source, torch.device("cpu")), source.resolve())
    settings = Settings(tmp_path_factory.mktemp("state"), tokens=Tokens({"ward": small.hashed("secret")}))
    port = small.free_port()
    config = uvicorn.Config(build_app(Service(model, settings)), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait(lambda: server.started)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Driver(DRIVER))
    yield made
    made.quit()


def wait(true: Callable[[], Any], patience: float = 60.0) -> Any:
    """Ask until it is so."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came to be so")


def text(browser: Any, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def test_a_ct_is_dropped_and_its_masks_are_seen(browser: Any, url: str, tmp_path: Path) -> None:
    browser.get(url)
    wait(lambda: browser.find_element(By.TAG_NAME, "body").get_attribute("data-ready"))
    assert "expected a token of this service" in text(browser, "model")
    token = browser.find_element(By.ID, "token")
    token.send_keys("secret\t")
    wait(lambda: text(browser, "model").startswith("small · sha256:"))
    assert [e.text.strip() for e in browser.find_elements(By.CSS_SELECTOR, "#classes label")] == [
        "liver",
        "spleen",
    ]
    (tmp_path / "DOE^JOHN.nii.gz").write_bytes(small.ct_gz())
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "DOE^JOHN.nii.gz"))
    wait(lambda: text(browser, "state").endswith(" s"))
    rows = [row.text.split() for row in browser.find_elements(By.CSS_SELECTOR, "#volumes tbody tr")]
    assert [name for name, _ in rows] == ["liver", "spleen"]
    assert browser.find_element(By.ID, "save").get_attribute("href").startswith("blob:")
    assert browser.execute_script(
        "const p = document.getElementById('canvas'); return p.width > 300 && p.height > 300"
    )
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [e["message"] for e in severe if "401" not in e["message"]] == []


def test_a_refusal_stands_where_one_looks(browser: Any, url: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no CT")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.txt"))
    wait(lambda: "expected a NIfTI image" in text(browser, "state"))
