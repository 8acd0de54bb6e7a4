"""Gates of the suites: a figure out of its bound fails with figure, bound and reference, and ends the whole run with 3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference

from ctune.bench.result import Gate, check_gates
from ctune.errors import GateError

_FAILED, _FIGURES = pytest.StashKey[bool](), pytest.StashKey[dict[str, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-reference", action="store_true", help="Write figures to reference.json instead of holding them to it."
    )  # fmt: skip


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``gate(what, figure, value, bound, at_most=True)`` raises GateError when a figure is out of its bound.

    share: a bound of so many times the figure's reference. band: bounds so far below and above it. With --write-reference such
    a figure is written instead.
    """
    writing = request.config.getoption("--write-reference")
    figures = request.config.stash.setdefault(_FIGURES, {})

    def check(
        what: str, figure: str, value: float, bound: float | None = None, *, at_most: bool = True,
        share: float | None = None, band: float | None = None,
    ) -> None:  # fmt: skip
        figures[reference.key(what, figure)] = round(value, 4)
        sides = [(bound, at_most)] if bound is not None else []
        if not writing and (share is not None or band is not None):
            known = reference.value_of(what, figure)
            sides += [(share * known, at_most)] if share is not None else []
            sides += [(known - band, False), (known + band, True)] if band is not None else []
        said = reference.words_of(what, figure)
        check_gates(
            [Gate(figure=figure, value=value, bound=b, reference=said, at_most=most) for b, most in sides]
        )

    return check


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    yield
    if call.excinfo is not None and call.excinfo.errisinstance(GateError):
        item.config.stash[_FAILED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-reference") and (figures := session.config.stash.get(_FIGURES, {})):
        reference.write(figures)
    if session.config.stash.get(_FAILED, False):
        session.exitstatus = GateError.exit_code
