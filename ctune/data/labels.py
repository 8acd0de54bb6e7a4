"""What the numbers in a label map mean: tables of class names and ids, as data sets and people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ctune.errors import DataError, UsageError
from ctune.types import UNLABELLED

Labels: TypeAlias = Mapping[str, tuple[int, ...]]
"""{class as the data set calls it: the ids whose voxels belong to it}; an id may belong to several."""

IGNORE = "ignore"
"""The name under which nnU-Net lists the id of voxels that nobody has judged; never a class."""

_SINGLE = """spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right
adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left
lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right
esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
kidney_cyst_right sacrum"""
_SPINE = [
    f"vertebrae_{part}{n}"
    for part, count in (("S", 1), ("L", 5), ("T", 12), ("C", 7))
    for n in range(count, 0, -1)
]
_VESSELS = """heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left
common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right
atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein"""
_PAIRS = "iliac_artery iliac_vena humerus scapula clavicula femur hip"
_MUSCLES = "gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas"

TOTALSEGMENTATOR: Labels = {
    name: (number,)
    for number, name in enumerate(
        [
            *_SINGLE.split(),
            *_SPINE,
            *_VESSELS.split(),
            *(f"{name}_{side}" for name in _PAIRS.split() for side in ("left", "right")),
            "spinal_cord",
            *(f"{name}_{side}" for name in _MUSCLES.split() for side in ("left", "right")),
            "brain",
            "skull",
            *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
            "sternum",
            "costal_cartilages",
        ],
        start=1,
    )
}
"""The 117 ids of TotalSegmentator v2's task `total` (its ``map_to_binary.py``)."""


def parse_labels(text: str) -> Labels:
    """The table that a person wrote: ``1=spleen,63=postcava``, ``1+2=liver`` (both ids are liver), the word
    ``totalsegmentator``, or a JSON file with a table such as a ``dataset.json`` holds.

    Raises UsageError for anything else.

    >>> parse_labels("1+2=liver, 2=liver_tumor")
    {'liver': (1, 2), 'liver_tumor': (2,)}
    """
    if text.strip().lower() == "totalsegmentator":
        return TOTALSEGMENTATOR
    if text.endswith(".json"):
        return read_table(Path(text))
    table: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d+(?:\s*\+\s*\d+)*)\s*=\s*(\S.*)", part)
        if not match:
            raise UsageError(
                "expected labels such as 1=spleen,63=postcava or 1+2=liver, the word totalsegmentator or a "
                f"JSON file; got {part!r}"
            )
        ids = tuple(int(n) for n in match[1].split("+"))
        table[match[2]] = (*table.get(match[2], ()), *ids)
    if not table:
        raise UsageError(f"expected labels such as 1=spleen,63=postcava, got {text!r}")
    return table


def split_ignore(labels: Labels) -> tuple[Labels, tuple[int, ...]]:
    """The classes of a table, and the ids of voxels that nobody has judged: those of ``ignore``, and 255.

    An id that a class has too is the class's.

    >>> split_ignore({"liver": (1, 2), "ignore": (3,)})
    ({'liver': (1, 2)}, (3, 255))
    """
    classes = {name: ids for name, ids in labels.items() if name != IGNORE}
    named = {number for ids in classes.values() for number in ids}
    ignored = dict.fromkeys((*labels.get(IGNORE, ()), UNLABELLED))
    return classes, tuple(number for number in ignored if number not in named)


def read_table(path: Path) -> Labels:
    """The table in a JSON file: either the file's "labels" or the file itself. Raises DataError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"expected a JSON table of labels in {path}, got {error}") from None
    return label_table(document.get("labels", document) if isinstance(document, dict) else document, path)


def label_table(labels: Any, path: Path) -> Labels:
    """A data set's own table, {"1": "liver"} (Decathlon) or {"liver": 1, "whole": [1, 2]} (nnU-Net), without
    the background.

    `path` names the file in messages. Raises DataError.
    """
    if not isinstance(labels, dict) or not labels:
        raise DataError(
            f'expected "labels" such as {{"1": "liver"}} or {{"liver": 1}} in {path}, got {labels!r}'
        )
    table: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        name, ids = (
            (value, [key]) if isinstance(value, str) else (key, value if isinstance(value, list) else [value])
        )
        try:
            numbers = tuple(int(n) for n in ids)
        except (TypeError, ValueError):
            raise DataError(
                f"expected whole numbers as label ids in {path}, got {key!r}: {value!r}"
            ) from None
        if set(numbers) != {0}:
            table[name] = (*table.get(name, ()), *numbers)
    return table
