"""What commands print: JSON that any reader takes, or text; progress never on stdout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.output import emit, plain, progress
from ctune.config import Config
from ctune.types import Progress, Source


@dataclass(frozen=True)
class Row:
    path: Path
    dice: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Row(Path("a/b"), float("nan")), {"path": "a/b", "dice": None}),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]], dtype=np.uint8), [[1, 2]]),
        (float("inf"), None),
        ({3: {"b", "a"}}, {"3": ["a", "b"]}),
        (Source.REVISED, "revised"),
        ((True, None, "x"), [True, None, "x"]),
        (np.array([np.nan]), [None]),
    ],
    ids=lambda value: str(value) if not isinstance(value, dict) else "sets",
)
def test_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_plain_takes_settings() -> None:
    assert plain(Config(seed=3))["seed"] == 3


def test_emit_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"mean": float("nan"), "class": "Öl"}, True, lambda console: console.print("for people"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"mean": None, "class": "Öl"}
    assert err == ""


def test_emit_prints_for_people_without_breaking_lines(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/a/path/" + "x" * 300
    emit({}, False, lambda console: console.print(long))
    assert capsys.readouterr().out == long + "\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_progress_is_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    with progress("tune", as_json) as on_progress:
        on_progress(Progress("tune", 1, 2))
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal gets no bars
    with progress("tune") as on_progress:
        on_progress(Progress("spleen", 1, 2, detail="loss 0.5"))
        on_progress(Progress("spleen", 2, 2))
    out, err = capsys.readouterr()
    assert out == ""
    assert "spleen" in err
