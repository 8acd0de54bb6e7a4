"""The page's tools and states in Chromium: threshold, pen, opacity, dark; a browser that is killed; a tuning from click to queue."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_review import box, learning_project, next_round, review_project
from test_review_page import (
    Server,
    browser,
    coloured,
    drawn,
    js,
    new_browser,
    open_case,
    press,
    pytestmark,
    saved_mask,
    server,
    settle,
    shot,
    state,
    stroke,
    wait,
)

from ctune.data.files import read_json
from ctune.project import open_project
from ctune.review.desk import ReviewDesk
from ctune.review.tokens import add_token
from ctune.review.tuning import Tuner

__all__ = ["browser", "pytestmark", "server"]


def text(browser: Any, id: str) -> str:
    return str(js(browser, f"document.getElementById('{id}').innerText"))


def voxels(browser: Any) -> np.ndarray:
    """The class that is edited, (X, Y, Z) as in the file."""
    found = np.array(js(browser, "[...review.viewer.voxels()]"), np.uint8)
    return found.reshape(box("spleen").shape, order="F")


def pen(browser: Any, kind: str, dx: float = 0.0, dy: float = 0.0, **more: Any) -> None:
    """An event of a real pen beside the crosshair, in pixels of the page."""
    where = (
        "(([x, y], b) => [b.x + x / devicePixelRatio, b.y + y / devicePixelRatio])"
        "(review.viewer.nv.frac2canvasPos(review.viewer.nv.scene.crosshairPos), canvas.getBoundingClientRect())"
    )
    if kind == "mousePressed":
        settle(browser)
        browser.pen = js(browser, where)
    x, y = browser.pen
    about = {
        "type": kind,
        "x": x + dx,
        "y": y + dy,
        "button": "left",
        "buttons": 1,
        "clickCount": 1,
        "pointerType": "pen",
    }
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", about | more)


def test_the_threshold_brush_paints_only_densities_in_its_range(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    browser.execute_script("low.value = 40; high.value = 80; size.value = 17")
    press(browser, "mt")
    stroke(browser, 10)
    wait(lambda: state(browser) == "saved")
    inside = voxels(browser)
    assert inside.sum() and not (inside & (1 - box("spleen"))).any(), (
        "the spleen has 60 HU, what is around it -80"
    )
    press(browser, "z")
    wait(lambda: drawn(browser) == 0)
    press(browser, "b")
    stroke(browser, 10)
    assert (voxels(browser) & (1 - box("spleen"))).any(), "the plain brush paints beyond it"


def test_a_pen_draws_and_a_long_stroke_is_saved_before_it_ends(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    press(browser, "mb")
    kinds = "window.kinds = []; canvas.addEventListener('pointermove', (e) => kinds.push([e.pointerType, e.pressure]))"
    browser.execute_script(kinds)
    pen(browser, "mousePressed", force=0.4)
    for k in range(1, 12):
        pen(browser, "mouseMoved", dx=2 * k, force=0.4 + k / 30)
    wait(lambda: drawn(browser) > 5)
    wait(lambda: state(browser) == "saved", 10)
    assert drawn(browser), "saved while the pen is down"
    pen(browser, "mouseReleased", dx=22)
    kinds_seen = js(browser, "kinds")
    assert {kind for kind, _ in kinds_seen} == {"pen"} and len({pressure for _, pressure in kinds_seen}) > 3
    before = drawn(browser)
    press(browser, "z")
    wait(lambda: drawn(browser) < before)


def test_opacity_and_attention_by_their_keys(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    liver, hot = (10, 10, 12), (31, 16, 8)
    for key, there in (("o", liver), ("a", hot)):
        assert coloured(browser, *there), key
        press(browser, key)
        assert not coloured(browser, *there), key
        press(browser, key)
        assert coloured(browser, *there), key
    faint = coloured(browser, *liver)
    press(browser, "+++")
    assert coloured(browser, *liver) > faint
    press(browser, "------")
    assert coloured(browser, *liver) < faint


def test_drawing_by_keys_alone_and_the_class_under_the_crosshair_in_words(
    browser: Any, server: Server
) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    press(browser, " ")
    wait(lambda: "Take the brush (B)" in text(browser, "toast"))
    for _ in range(2):
        press(browser, "b" + 3 * "\ue014" + " ")
    before = drawn(browser)
    assert before > 1
    wait(lambda: text(browser, "place").endswith("· spleen"))
    press(browser, "e ")
    assert 0 < drawn(browser) < before
    wait(lambda: state(browser) == "saved")
    press(browser, "0")
    assert drawn(browser) == 0
    browser.execute_script("review.viewer.jump([10, 10, 12])")
    wait(lambda: text(browser, "place").endswith("· liver"))
    browser.execute_script("review.viewer.jump([38, 34, 2])")
    wait(lambda: text(browser, "place").endswith("· no class"))


def test_two_cases_asked_for_at_once_and_two_classes(browser: Any, server: Server) -> None:
    """What is on the picture, what is edited and what is saved stay one case and one class."""
    open_case(browser, server.start())
    browser.execute_script(
        "const b = document.querySelectorAll('#items button'); b[1].click(); b[0].click(); b[1].click()"
    )
    wait(lambda: not js(browser, "review.page.opening") and js(browser, "review.page.editing"))
    assert js(browser, "review.page.open.id") == "case_2"
    browser.execute_script(
        "const press = (key) => document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));"
        "press('2'); press('3'); press('2')"
    )
    wait(lambda: js(browser, "review.page.editing") == "liver")
    settle(browser)
    assert drawn(browser) == box("liver").sum() - box("liver")[:, :, 4].sum()
    assert coloured(browser, 22, 24, 12), "the aorta is locked, and there"


def test_dark_and_light_are_kept_and_readable(browser: Any, server: Server) -> None:
    """Text and its ground differ in luminance by 4.5 to 1, as WCAG 2 asks (AA)."""
    open_case(browser, server.start())
    for _ in range(2):
        theme = js(browser, "document.documentElement.dataset.theme")
        press(browser, "d")
        other = js(browser, "document.documentElement.dataset.theme")
        assert {theme, other} == {"dark", "light"}
        for name in ("text", "quiet", "warn", "good", "accent"):
            for ground in ("card", "bg"):
                assert contrast(browser, name, ground) >= 4.5, (other, name, ground)
    browser.refresh()
    wait(lambda: js(browser, "window.review?.page.items.length"))
    assert js(browser, "document.documentElement.dataset.theme") == other, "kept over a reload"


def contrast(browser: Any, *names: str) -> float:
    light = []
    for name in names:
        colour = js(
            browser, f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
        ).lstrip("#")
        colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
        linear = [((int(colour[i : i + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for i in (0, 2, 4)]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(light) / min(light)


def test_a_browser_that_is_killed_in_the_middle_of_a_stroke_loses_seconds(
    browser: Any, server: Server
) -> None:
    token = add_token(server.root / "review" / "tokens.json", "dr. a", "revise")
    link = server.start().partition("#")[0] + f"#token={token}"
    victim = new_browser()
    try:
        open_case(victim, link)
        press(victim, "n")
        press(victim, "mb")
        pen(victim, "mousePressed")
        for k in range(1, 10):
            pen(victim, "mouseMoved", dx=3 * k)
        wait(lambda: state(victim) == "saved", 10)
        expected = drawn(victim)
        pen(victim, "mouseMoved", dx=60)
        os.kill(victim.capabilities["goog:processID"], signal.SIGKILL)
    finally:
        victim.service.stop()
    open_case(browser, link)
    assert drawn(browser) == expected > 0, "all but the last move, which was not a second old"
    assert text(browser, "saved").endswith("your draft goes on")


def test_a_round_that_comes_while_a_case_is_open_offers_the_draft(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    press(browser, "mb")
    stroke(browser, 12)
    expected = drawn(browser)
    wait(lambda: state(browser) == "saved")
    next_round(open_project(server.root))
    press(browser, "\ue007")
    wait(lambda: "it was opened in round 1; open it again, your draft is kept" in text(browser, "toast"))
    press(browser, "r")
    wait(
        lambda: (
            "You have a draft of round 1: spleen. Shown is the new prediction." in text(browser, "earlier")
        )
    )
    assert drawn(browser) == 0
    press(browser, "r")
    wait(lambda: drawn(browser) == expected)
    assert js(browser, "earlier.hidden")


def held(browser: Any, key: str, code: int, kind: str = "keyDown", repeat: bool = False) -> None:
    """A key as the keyboard sends it: a held one sends `keyDown` again and again."""
    about = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "autoRepeat": repeat}
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", about)


def test_a_case_that_the_new_queue_lacks_is_saved_once_and_accepted(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "j")
    wait(lambda: js(browser, "review.page.open.id") == "case_2" and not js(browser, "review.page.opening"))
    next_round(open_project(server.root))
    browser.execute_script("review.tuning.ended()")
    wait(lambda: js(browser, "review.page.items.map((i) => i.id).join()") == "case_1")
    press(browser, "n")
    press(browser, "mb")
    stroke(browser, 12)
    wait(lambda: state(browser) == "saved")
    wait(lambda: js(browser, "review.page.items.map((i) => i.id).join()") == "case_1,case_2")
    time.sleep(2.5)  # longer than the page waits before it tries again
    assert state(browser) == "saved" and text(browser, "saved").endswith("(version 1)")
    expected = voxels(browser)
    press(browser, "\ue007")
    wait(lambda: js(browser, "review.page.open.id") == "case_1" and not js(browser, "review.page.opening"))
    wait(lambda: text(browser, "toast").startswith("case_2 saved. Changed: "))
    assert np.array_equal(np.asarray(saved_mask(server, "spleen", "case_2").dataobj), expected)
    assert len(list((server.root / "review" / "drafts" / "001" / "case_2").rglob("spleen-*"))) == 1


def test_a_queue_that_does_not_come_is_not_told_as_unsaved(browser: Any, server: Server) -> None:
    """Neither of a draft nor of a verdict that the server has kept."""
    open_case(browser, server.start())
    browser.execute_script(
        "const real = window.fetch; window.fetch = (at, ...more) => at === '/api/queue' ? Promise.reject(new Error('away')) : real(at, ...more);"
        "review.page.items = []"
    )
    press(browser, "n")
    press(browser, "mb")
    stroke(browser, 12)
    wait(lambda: state(browser) == "saved")
    wait(lambda: text(browser, "toast") == "away")
    press(browser, "\ue007")
    wait(
        lambda: (
            text(browser, "toast").startswith("case_1 saved.")
            and text(browser, "toast").endswith("The next case was not opened: away")
        )
    )
    assert len(list((server.root / "review" / "drafts").rglob("spleen-*"))) == 1


def test_a_held_key_judges_one_case_and_so_does_one_that_is_pressed_twice(
    browser: Any, tmp_path: Path
) -> None:
    server = Server(review_project(tmp_path / "project", cases=4))
    try:
        open_case(browser, server.start())
        held(browser, "Enter", 13)
        for _ in range(10):
            held(browser, "Enter", 13, repeat=True)
            time.sleep(0.1)
        wait(lambda: js(browser, "review.page.open.id") == "case_2" and ready(browser))
        for _ in range(5):
            held(browser, "Enter", 13, repeat=True)
        held(browser, "Enter", 13, "keyUp")
        time.sleep(1)
        assert js(browser, "review.page.open.id") == "case_2" and judged(server) == {"case_1": 1}
        twice = "for (let k = 0; k < 2; k++) document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }))"
        browser.execute_script(twice)
        wait(lambda: js(browser, "review.page.open.id") == "case_3" and ready(browser))
        time.sleep(1)
        assert js(browser, "review.page.open.id") == "case_3"
        assert judged(server) == {"case_1": 1, "case_2": 1}
        # The next case is on its way when the key comes: judged is the one that was seen, once.
        browser.execute_script(
            "for (const key of ['j', 'Enter']) document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
        )
        wait(lambda: js(browser, "review.page.open.id") == "case_4" and ready(browser))
        time.sleep(1)
        assert judged(server) == {"case_1": 1, "case_2": 1, "case_3": 1}
    finally:
        server.kill()


def ready(browser: Any) -> bool:
    return bool(js(browser, "!review.page.opening && !!review.page.editing"))


def judged(server: Server) -> dict[str, int]:
    """How many verdicts each case has."""
    return dict(Counter(v.case_id for v in ReviewDesk(open_project(server.root)).state.verdicts(1)))


@pytest.fixture
def learning(tmp_path: Path) -> Iterator[Server]:
    """A server whose round 1 has one case revised as the truth has it."""
    made, truth = learning_project(tmp_path / "project")
    desk = ReviewDesk(made)
    case_id = desk.rows()[0].case_id
    desk.hand_in(case_id, {"stomach": truth(case_id, "stomach")}, "dr. a", "edited", "")
    out = Server(made)
    yield out
    out.kill()
    Tuner(made).stop()


def test_tune_now_from_the_click_to_the_new_queue_through_a_kill_of_everything(
    browser: Any, learning: Server
) -> None:
    browser.get("about:blank")
    browser.get(learning.start())
    wait(lambda: js(browser, "window.review?.page.items.length"))
    assert js(browser, "!tune.hidden && !tune.disabled")
    clickable = (
        "[...document.querySelectorAll('[data-do]')].filter((b) => !b.disabled).map((b) => b.dataset.do)"
    )
    assert set(js(browser, clickable)) == {"help", "tune"}, "no case is open"
    note = learning.root / "review" / "tuning.json"
    browser.find_element("id", "tune").click()
    wait(lambda: text(browser, "tuning-words").startswith("Round 1, "))
    wait(lambda: read_json(note)["pid"])
    shot(browser, "review-tuning")
    learning.kill()
    os.kill(read_json(note)["pid"], signal.SIGKILL)
    seen = set()
    learning.start()

    def over() -> bool:
        seen.add(text(browser, "tuning-words"))
        return js(browser, "review.page.items[0].round") == 2

    wait(over, 120)
    assert len({words.split(":")[0] for words in seen if words.startswith("Round")}) >= 2, seen
    wait(lambda: text(browser, "tuning-words").startswith("Tuned. Dice on the test cases: stomach new → "))
    assert text(browser, "round").startswith("Round 2: 0 of ")
    press(browser, "j")
    wait(lambda: js(browser, "review.page.editing") == "stomach")
    settle(browser)
    shot(browser, "review-tuned")
    case_id = js(browser, "review.page.open.id")
    assert {"grow", "edited", "as_is", "cannot_judge", "spot"} <= set(js(browser, clickable))
    assert (learning.root / "rounds" / "002" / "predictions" / case_id / "stomach.nii.gz").exists()
    assert time.time() - note.stat().st_mtime < 60
