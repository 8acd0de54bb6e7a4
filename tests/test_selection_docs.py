"""docs/selection.md says what the newest committed result says, and its prose holds no figure of a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctune.bench.selection.table import newest, table, with_table
from ctune.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "selection.md"


def test_the_page_has_the_numbers_of_the_newest_result() -> None:
    path, result = newest(ROOT / "benchmarks" / "results")
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, table(path.name, result)) == page, (
        'run python -c "from ctune.bench.selection.table import rewrite; rewrite()"'
    )


def test_the_table_is_that_of_the_result() -> None:
    """Two figures, read from the file by another way."""
    path, result = newest(ROOT / "benchmarks" / "results")
    made = table(path.name, result)
    value = result.measures["sensitivity"]["ctune"]  # type: ignore[index,call-overload]
    assert f"| sensitivity | at least .85 | {value:.3f}".replace("| 0.", "| .") in made  # type: ignore[str-format]
    dice = result.measures["final_dice"]["random"]  # type: ignore[index,call-overload]
    assert f": {dice:.3f}".replace(": 0.", ": .") in made


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(DataError, match="expected <!-- measured --> and <!-- /measured --> in the page"):
        with_table("a page", "a table")
