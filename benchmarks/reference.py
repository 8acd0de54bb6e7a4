"""What the suites' figures were when they were last written down: ``reference.json``, by ``make bench-reference``.

A gate whose figure follows the machine little is a ratio to its reference; it fails when its subject gets worse by more than
that ratio, however far a promise would be away.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctune.bench.machine import commit, machine
from ctune.data.files import read_json, write_json
from ctune.errors import DataError

FILE = Path(__file__).parent / "reference.json"


def value_of(what: str, figure: str, file: Path = FILE) -> float:
    """A figure's reference. Raises DataError where there is none."""
    try:
        return float(_known(file)[key(what, figure)]["value"])
    except KeyError:
        raise DataError(
            f"expected a reference of {key(what, figure)} in {file.name}, got none; run `make bench-reference`"
        ) from None


def words_of(what: str, figure: str, file: Path = FILE) -> str:
    """Where a figure stood, in words, for a gate's message."""
    found = _known(file).get(key(what, figure))
    if found is None:
        return f"none in {file.name}"
    return f"{found['value']:.4g} in {file.name} ({found['processor']}, {found['measured'][:10]})"


def write(figures: Mapping[str, float], file: Path = FILE) -> None:
    """Take the place of what the file said of these figures; others stay."""
    here = machine("smoke")
    about: dict[str, Any] = {
        "processor": here["processor"],
        "cores": here["cores"],
        "load_1_minute": here["load_1_minute"],
        "commit": commit(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(file, {**_known(file), **{name: {"value": v, **about} for name, v in figures.items()}})


def key(what: str, figure: str) -> str:
    """The name of a figure in the file.

    >>> key("speed", "dice_new_classes")
    'speed.dice_new_classes'
    """
    return f"{what}.{figure}"


def _known(file: Path) -> dict[str, Any]:
    return dict(read_json(file)) if file.exists() else {}
