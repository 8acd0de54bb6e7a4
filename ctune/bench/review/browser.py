"""The review page as an expert has it, for measuring: `ctune review` in a process of its own, and headless Chromium without a GPU.

What is timed is timed in the page itself: from the key or the pointer's event to the frame that shows what came of it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ctune.errors import BenchNotHereError, CtuneError

_FLAGS = (
    "--headless=new", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-quic",
    "--disable-background-networking", "--window-size=1366,900",
)  # fmt: skip
_WATCH = r"""
const r = window.review, v = r.viewer, found = window.found = { moves: [] };
const frame = () => new Promise((done) => requestAnimationFrame(() => {
  const tick = new MessageChannel(); tick.port1.onmessage = done; tick.port2.postMessage(0); }));
const lit = (n = 64) => { const gl = v.nv.gl, p = new Uint8Array(4 * n * n);
  gl.readPixels(gl.drawingBufferWidth >> 2, gl.drawingBufferHeight >> 1, n, n, gl.RGBA, gl.UNSIGNED_BYTE, p);
  return p.some((value, i) => i % 4 < 3 && value > 30); };
const show = v.show.bind(v), edit = v.edit.bind(v), get = window.fetch;
// A case is being opened from the moment that the page asks for its CT.
window.fetch = (path, ...more) => { if (/\/ct\?/.test(path)) { found.begun = performance.now(); found.picture = found.ready = 0; } return get(path, ...more); };
v.edit = (...all) => { edit(...all); if (!found.ready) frame().then(() => { found.ready = performance.now() - found.begun; }); };
v.show = async (...all) => { await show(...all);
  requestAnimationFrame(() => { found.lit = lit(); }); // Before the frame is shown: it is gone from the buffer afterwards.
  await frame(); found.picture = performance.now() - found.begun; };
window.openCase = () => {
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true })); };
// Reading a pixel waits until the picture is really drawn: to draw only puts commands in a queue.
addEventListener("mousemove", (event) => { if (!event.buttons) return;
  const at = event.timeStamp, heard = performance.now() - at;
  requestAnimationFrame(() => { lit(1); found.moves.push([heard, performance.now() - at]); }); });
addEventListener("pointerup", () => { found.up = performance.now(); found.flush = found.saved = 0; }, true);
const saved = document.getElementById("saved");
new MutationObserver(() => {
  if (saved.textContent === "saving …") found.flush = performance.now();
  if (saved.dataset.state === "saved" && found.flush && !found.saved) found.saved = performance.now();
}).observe(saved, { childList: true, attributes: true, characterData: true, subtree: true });
window.accept = () => { found.accepted = 0; found.enter = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true })); };
new PerformanceObserver((list) => { for (const e of list.getEntries()) if (e.name.endsWith("/verdict")) found.accepted = e.responseEnd - found.enter;
}).observe({ type: "resource" });
"""


def chromium() -> tuple[str, str]:
    """Where Chromium and its driver are. Raises BenchNotHereError where they or selenium are missing."""
    found = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    try:
        import selenium  # noqa: F401
    except ImportError:
        found = (None, None)
    if not (found[0] and found[1]):
        raise BenchNotHereError(
            "expected Chromium, its driver and selenium, found not all of them; install them to measure the page"
        )
    return found[0], found[1]


class Sitting:
    """A server on a project and a browser that has opened its link."""

    def __init__(self, project: Path) -> None:
        self.project = project

    def __enter__(self) -> Self:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location, driver = chromium()
        for flag in _FLAGS:
            options.add_argument(flag)
        self.browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            link = self._serve()
            begun = time.perf_counter()
            self.browser.get(link)
            self.wait("window.review?.page.items.length")
            self.page_seconds = time.perf_counter() - begun
            self.browser.execute_script(_WATCH)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.browser.quit()
        if process := getattr(self, "process", None):
            process.terminate()
            process.wait(30)

    def _serve(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [
            "-c",
            "from cli.main import run; run()",
            "review",
            "--project",
            str(self.project),
            "--port",
            str(port),
        ]
        self.process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        link = self.process.stdout.readline().split()[-1]
        self.until(lambda: socket.create_connection(("127.0.0.1", port), 0.2), "the server").close()
        return link

    def js(self, code: str) -> Any:
        """The value of an expression in the page."""
        return self.browser.execute_script(f"return {code}")

    def wait(self, code: str) -> Any:
        """Ask the page until it is so. Raises CtuneError after two minutes."""
        return self.until(lambda: self.js(code), code)

    def until(self, true: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                if found := true():
                    return found
            except OSError:
                pass
            time.sleep(0.05)
        raise CtuneError(f"expected {what} within 120 s, it is not so; see what the page says")

    def open_case(self) -> dict[str, Any]:
        """Open the first case by its key, and wait as ``opened`` does."""
        self.browser.execute_script("openCase()")
        return self.opened()

    def opened(self) -> dict[str, Any]:
        """Seconds to the picture of the case that is being opened, and to where one can draw; whether the picture shows anything."""
        self.wait("found.ready")
        return {
            "picture": float(self.js("found.picture")) / 1000,
            "ready": float(self.js("found.ready")) / 1000,
            "lit": bool(self.js("found.lit")),
        }

    def stroke(self, moves: int) -> list[list[float]]:
        """Draw with the pointer. For each of its moves: milliseconds to the end of drawing and to the frame."""
        self.js("void review.viewer.nv.setSliceType(review.viewer.nv.sliceTypeMultiplanar)")
        self.js("document.querySelector('[data-tool=brush]').click()")
        box = self.js("(({ x, y }) => [x, y])(document.getElementById('canvas').getBoundingClientRect())")
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        where = "review.viewer.nv.frac2canvasPos(review.viewer.nv.scene.crosshairPos)"
        x, y = (float(v) for v in self.wait(f"[...({where} ?? [])].map((v) => v / devicePixelRatio)"))
        self.js("void (found.moves = [])")
        self._mouse("mousePressed", box[0] + x, box[1] + y)
        for k in range(1, moves + 1):
            self._mouse("mouseMoved", box[0] + x + k % 60, box[1] + y + (k // 60) * 2)
        self._mouse("mouseReleased", box[0] + x, box[1] + y)
        self.wait("found.moves.length && found.saved")
        return [list(map(float, move)) for move in self.js("found.moves")]

    def saving(self) -> dict[str, float]:
        """Seconds of the last saving of a draft: on its way, and from the pen's lifting on."""
        flush, saved, up = (float(self.js(f"found.{name}")) for name in ("flush", "saved", "up"))
        return {"draft": (saved - flush) / 1000, "since_the_pen": (saved - up) / 1000}

    def accept(self) -> float:
        """Seconds from Enter to the answer that the revisions stand on the disk."""
        self.browser.execute_script("found.ready = 0; accept()")
        return float(self.wait("found.accepted")) / 1000

    def _mouse(self, kind: str, x: float, y: float) -> None:
        about = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", about)
