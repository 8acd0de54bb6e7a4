"""The review page in a real browser: open, draw, undo, redo, accept, and read back what stands on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_review import AFFINE, box, image_project, review_project

from ctune.project import Project

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
FLAGS = (
    "--headless=new", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-quic",
    "--disable-background-networking", "--window-size=1366,900",
)  # fmt: skip
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "totalsegmentator" / "example_ct_sm.nii.gz"
SPOT = (29, 16, 8)
"""The middle of the smaller hot spot, in the file's own voxels."""


class Server:
    """``ctune review`` in a process of its own, on a port that stays the same after a restart."""

    def __init__(self, project: Project) -> None:
        self.root = project.root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self, expert: str = "dr. a") -> str:
        """The one-time link."""
        code = "from cli.main import run; run()"
        args = ("review", "--project", str(self.root), "--port", str(self.port), "--expert", expert)
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )  # fmt: skip
        assert self.process.stdout
        link = self.process.stdout.readline().split()[-1]
        wait(lambda: socket.create_connection(("127.0.0.1", self.port), 0.2).close() is None)
        return link

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def shot(browser: Any, name: str) -> None:
    """Keep what is on the screen, for the documents, where REVIEW_SHOTS names a folder."""
    if folder := os.environ.get("REVIEW_SHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def wait(true: Callable[[], Any], patience: float = 60.0) -> Any:
    """Ask until it is so."""
    end, last = time.monotonic() + patience, None
    while time.monotonic() < end:
        try:
            if found := true():
                return found
        except OSError as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"not within {patience:.0f} s: {last or true}")


def new_browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = new_browser()
    yield driver
    driver.quit()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    out = Server(review_project(tmp_path / "project"))
    yield out
    out.kill()


def js(browser: Any, code: str) -> Any:
    return browser.execute_script(f"return {code}")


def press(browser: Any, key: str) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys(key)


def open_case(browser: Any, link: str) -> None:
    browser.get("about:blank")
    browser.get(link)
    wait(lambda: js(browser, "window.review?.page.items.length"))
    press(browser, "j")
    wait(lambda: js(browser, "review.page.editing") and js(browser, "!!review.viewer.bitmap"))


def stroke(browser: Any, by: int = 0) -> None:
    """Draw with the real pointer where the crosshair stands, `by` pixels to the right."""
    settle(browser)
    where = "review.viewer.nv.frac2canvasPos(review.viewer.nv.scene.crosshairPos)"
    x, y = js(browser, f"[...{where}].map((v) => v / (window.devicePixelRatio || 1))")
    canvas = browser.find_element(By.ID, "canvas")
    dx, dy = x - canvas.size["width"] / 2, y - canvas.size["height"] / 2
    before = drawn(browser)
    chain = ActionChains(browser, duration=20).move_to_element_with_offset(canvas, round(dx), round(dy))
    chain.click_and_hold().move_by_offset(by, 0).release().perform()
    wait(lambda: drawn(browser) != before)


def settle(browser: Any) -> None:
    """The picture is drawn once a frame: what was asked for before is on the screen after this."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def coloured(browser: Any, *voxel: int) -> int:
    """How far from grey the picture is beside a voxel of the file, 0 to 255."""
    pixel = pixel_at(browser, *voxel)
    return max(pixel) - min(pixel)


def pixel_at(browser: Any, *voxel: int) -> list[int]:
    """Red, green and blue two pixels beside a voxel of the file: the crosshair lies on it itself."""
    code = """
      const done = arguments[arguments.length - 1], v = review.viewer, gl = v.nv.gl, p = new Uint8Array(4);
      v.jump(arguments[0]);
      requestAnimationFrame(() => {
        const [x, y] = v.nv.frac2canvasPos(v.nv.scene.crosshairPos);
        gl.readPixels(x + 2, gl.drawingBufferHeight - y - 3, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, p);
        done([...p.slice(0, 3)]);
      });"""
    return list(map(int, browser.execute_async_script(code, list(voxel))))


def drawn(browser: Any) -> int:
    return int(js(browser, "(review.viewer.bitmap ?? []).reduce((a, b) => a + b, 0)"))


def state(browser: Any) -> str:
    return str(js(browser, "document.getElementById('saved').dataset.state"))


def saved_mask(server: Server, name: str, case: str = "case_1") -> Any:
    (path,) = (server.root / "pool" / case / "annotations" / name).glob("revised-*.nii.gz")
    return nib.load(path)


def test_open_draw_undo_redo_accept_and_what_stands_on_the_disk(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    press(browser, "mb")
    assert coloured(browser, 31, 16, 8) and not coloured(browser, 36, 30, 8), "attention lies over the CT"
    assert coloured(browser, 10, 10, 12) and coloured(browser, 22, 24, 12), (
        "and so do the liver and the aorta"
    )
    assert all(30 < grey < 80 for grey in pixel_at(browser, 36, 30, 8)), "fat of -80 HU under all of it"
    js(browser, f"void review.viewer.jump({list(SPOT)})")
    assert drawn(browser) == 0
    stroke(browser, 12)
    painted = drawn(browser)
    press(browser, "z")
    wait(lambda: drawn(browser) == 0)
    press(browser, "y")
    wait(lambda: drawn(browser) == painted)
    wait(lambda: state(browser) == "saved")
    expected = np.array(js(browser, "[...review.viewer.voxels()]"), np.uint8)
    press(browser, "\ue007")
    wait(lambda: js(browser, "review.page.open.id") == "case_2" and not js(browser, "review.page.opening"))
    assert all(30 < grey < 80 for grey in pixel_at(browser, 36, 30, 8)), "the next CT is seen as well"
    image = saved_mask(server, "spleen")
    assert np.array_equal(np.asarray(image.dataobj).ravel(order="F"), expected)
    assert np.asarray(image.dataobj)[SPOT] == 1, "painted where the hot spot is in the file's own voxels"
    assert np.allclose(image.affine, AFFINE)
    assert np.asarray(saved_mask(server, "liver").dataobj).sum() < box("liver").sum(), (
        "predicted, accepted as it was"
    )
    bad = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert bad == [], "nothing that the content security policy or the page complains of"


def test_a_server_that_dies_in_the_middle_of_a_draw_loses_nothing(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    press(browser, "mb")
    stroke(browser)
    wait(lambda: state(browser) == "saved")
    server.kill()
    stroke(browser, 30)
    wait(lambda: state(browser) == "failed")
    expected = drawn(browser)
    server.start()
    wait(lambda: state(browser) == "saved")
    browser.refresh()
    wait(lambda: js(browser, "window.review?.page.items.length"))
    press(browser, "j")
    wait(lambda: js(browser, "review.page.editing"))
    assert drawn(browser) == expected, "the draft goes on where it was"


@pytest.mark.skipif(not REAL.exists(), reason=f"the real CT is not in {REAL}")
def test_a_real_ct(browser: Any, tmp_path: Path) -> None:
    ct = nib.load(REAL)
    voxel = tuple(n // 3 for n in ct.shape)
    server = Server(image_project(tmp_path / "project", REAL, voxel))  # type: ignore[arg-type]
    try:
        open_case(browser, server.start())
        press(browser, "mb")
        stroke(browser, 20)
        wait(lambda: state(browser) == "saved")
        count = drawn(browser)
        press(browser, "\ue007")
        wait(lambda: list((server.root / "pool").glob("case_1/annotations/spleen/revised-*.json")))
        image = saved_mask(server, "spleen")
        mask = np.asarray(image.dataobj)
        assert mask[voxel] == 1 and mask.sum() == count
        assert image.shape == ct.shape and np.allclose(image.affine, ct.affine, atol=1e-5)
    finally:
        server.kill()
