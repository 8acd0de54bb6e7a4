"""ITK-SNAP's label description file: which number of a label map is which class, and in which colour.

IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
  1   157  108  162        1  1  1    "spleen"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ctune.data.files import write_atomically
from ctune.data.terminology import term_of
from ctune.errors import LabelError

_HEAD = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""
_CLEAR = "Clear Label"
_LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"\s*')


def is_descriptions(path: Path) -> bool:
    """Whether a file holds label descriptions: its first line that is no comment is one."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = (line for line in (file.readline(500) for _ in range(200)) if line.strip() and line[0] != "#")
        return bool(_LINE.fullmatch(next(lines, "").rstrip("\n")))


def write_descriptions(path: Path, numbers: Mapping[str, int]) -> None:
    """Write {class: number in the label map} with each class's colour; 0 is what ITK-SNAP calls the clear label."""
    rows = [_row(0, (0, 0, 0), 0, _CLEAR)]
    rows += [
        _row(number, term_of(name).colour, 1, name)
        for name, number in sorted(numbers.items(), key=lambda item: item[1])
    ]
    with write_atomically(path) as temporary:
        temporary.write_text(_HEAD + "".join(rows), encoding="utf-8")


def read_descriptions(path: Path) -> dict[str, tuple[int, ...]]:
    """{label as the file calls it: its numbers}, without the background. Raises LabelError with the line that is none."""
    table: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise LabelError(
                f'expected a label such as 1 255 0 0 1 1 1 "liver", got {line.strip()[:60]!r} in {path}:{number}; '
                "save the label descriptions again"
            )
        if int(match[1]) != 0:
            table[match[5]] = (*table.get(match[5], ()), int(match[1]))
    return table


def colours_of(path: Path) -> dict[str, tuple[int, int, int]]:
    """{label: (red, green, blue) in 0..255}. Raises as ``read_descriptions``."""
    read_descriptions(path)
    found = (
        _LINE.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    return {m[5]: (int(m[2]), int(m[3]), int(m[4])) for m in found if m is not None and m[1] != "0"}


def _row(number: int, colour: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = colour
    return f'{number:5d}   {red:3d}  {green:3d}  {blue:3d}        {shown}  {shown}  {shown}    "{name}"\n'
