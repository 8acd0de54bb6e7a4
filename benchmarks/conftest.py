"""Gates of the suites: a figure out of its bound fails with figure, bound and reference, and ends the whole run with 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctune.bench.result import Gate, check_gates, last_figure
from ctune.errors import GateError

RESULTS = Path(__file__).parent / "results"
_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def gate() -> Callable[..., None]:
    """``gate(what, figure, value, bound, at_most=True)`` raises GateError when a figure is out of its bound.

    reference: what the bound was set by, by default the figure of the last committed result of `what`.
    """

    def check(
        what: str, figure: str, value: float, bound: float, *, at_most: bool = True, reference: str = ""
    ) -> None:
        known = reference or last_figure(RESULTS, what, figure)
        check_gates([Gate(figure=figure, value=value, bound=bound, reference=known, at_most=at_most)])

    return check


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    yield
    if call.excinfo is not None and call.excinfo.errisinstance(GateError):
        item.config.stash[_FAILED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(_FAILED, False):
        session.exitstatus = GateError.exit_code
