"""Two experts in two browsers on one case; the tools, by their keys; screenshots of the states are kept with REVIEW_SHOTS=DIR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_review_page import (
    Server,
    browser,
    drawn,
    js,
    open_case,
    press,
    pytestmark,
    server,
    shot,
    state,
    stroke,
    wait,
)

from ctune.review.tokens import add_token

__all__ = ["browser", "pytestmark", "server"]


@pytest.fixture
def second(browser: Any) -> Iterator[str]:
    """A second window: the session of a tab is its own."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    tab = browser.current_window_handle
    yield first
    browser.switch_to.window(tab)
    browser.close()
    browser.switch_to.window(first)


def test_two_experts_on_one_case_see_each_other_and_both_are_kept(
    browser: Any, server: Server, second: str
) -> None:
    token = add_token(server.root / "review" / "tokens.json", "dr. b", "revise")
    link = server.start()
    browser.switch_to.window(second)
    open_case(browser, link)
    press(browser, "n")
    press(browser, "mb")
    stroke(browser, 12)
    wait(lambda: state(browser) == "saved")
    other = next(h for h in browser.window_handles if h != second)
    browser.switch_to.window(other)
    open_case(browser, link.partition("#")[0] + f"#token={token}")
    wait(lambda: "dr. a is working on it" in js(browser, "document.getElementById('toast').textContent"))
    shot(browser, "review-lease")
    press(browser, "n")
    press(browser, "mb")
    stroke(browser, 40)
    wait(lambda: state(browser) == "saved")
    for window in (other, second):
        browser.switch_to.window(window)
        press(browser, "\ue007")
        wait(lambda: js(browser, "review.page.open.id") == "case_2")
    found = js(browser, "review.page.items[0]")
    assert found["experts"] == ["dr. b", "dr. a"] and 0 < found["agreement"] < 1
    assert "Experts agree: Dice 0." in js(browser, "document.getElementById('items').textContent")
    shot(browser, "review-apart")
    kept = list((server.root / "pool" / "case_1" / "annotations" / "spleen").glob("revised-*.nii.gz"))
    assert len(kept) == 2, "nothing is overwritten"


def test_the_tools_by_their_keys(browser: Any, server: Server) -> None:
    open_case(browser, server.start())
    press(browser, "n")
    # Grow takes the box of the spleen, 60 HU; its neighbours are fat.
    browser.execute_script("low.value = 40; high.value = 80")
    press(browser, "g")
    wait(lambda: drawn(browser) == 8 * 10 * 7)
    press(browser, "z")
    wait(lambda: drawn(browser) == 0)
    # Two drawn slices become one body; a ring is filled.
    browser.execute_script("""
      const v = review.viewer, [nx, ny] = v.dims, z = Math.round(v.at[2]);
      for (const dz of [-2, 2]) for (let y = 10; y < 16; y++) for (let x = 10; x < 16; x++)
        if (dz < 0 || x === 10 || x === 15 || y === 10 || y === 15) v.bitmap[x + nx * (y + ny * (z + dz))] = 1;
      window.dispatchEvent(new PointerEvent("pointerup"));
    """)
    wait(lambda: drawn(browser) == 36 + 20)
    press(browser, "i")
    wait(lambda: drawn(browser) > 56)
    before = drawn(browser)
    browser.execute_script(
        "const v = review.viewer, s = v.nv.scene.crosshairPos; v.nv.moveCrosshairInVox(0, 0, 2)"
    )
    press(browser, "h")
    wait(lambda: drawn(browser) == before + 16)
    for key, what in (
        ("w", "document.getElementById('window').value !== 'Soft tissue'"),
        ("?", "document.getElementById('help').open"),
    ):
        press(browser, key)
        wait(lambda what=what: js(browser, what))
    shot(browser, "review-help")
    press(browser, "\ue00c")
    theme = js(browser, "document.documentElement.dataset.theme")
    press(browser, "d")
    wait(lambda: js(browser, "document.documentElement.dataset.theme") != theme)
    marks = js(
        browser,
        "new Set([...document.querySelectorAll('#classes path')].map((p) => p.getAttribute('d'))).size",
    )
    assert marks == 3, "every class has a shape of its own, not a colour alone"
