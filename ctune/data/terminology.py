"""What other programs call a class: its coded concept (SNOMED CT, as DICOM and 3D Slicer write it), and its colour.

Codes are those of DICOM PS3.16, context groups 7150 (categories), 7151 to 7199 (property types) and 244 (laterality);
colours are those of 3D Slicer's list of general anatomy where it has one, others come from the name alone.
"""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

Code = tuple[str, str]
"""(SNOMED CT code value, meaning)."""

ANATOMY: Code = ("123037004", "Anatomical Structure")
TISSUE: Code = ("85756007", "Tissue")
ALTERED: Code = ("49755003", "Morphologically Altered Structure")
_MASS: Code = ("4147007", "Mass")
_SIDES: Mapping[str, Code] = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
_LESIONS = ("tumor", "lesion", "mass", "metastasis")

_KINDS: Mapping[str, tuple[str, str, tuple[int, int, int] | None]] = {
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "postcava": ("64131007", "Inferior vena cava", (0, 151, 206)),
    "gall_bladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "adrenal_gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "small_bowel": ("30315005", "Small intestine", (205, 167, 142)),
    "rectum": ("34402009", "Rectum", None),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "superior_vena_cava": ("48345005", "Superior vena cava", None),
    "brain": ("12738006", "Brain", None),
    "spinal_cord": ("2748008", "Spinal cord", (244, 214, 49)),
    "femur": ("71341001", "Femur", None),
    "sternum": ("56873002", "Sternum", None),
    "sacrum": ("54735007", "Sacrum", None),
}


@dataclass(frozen=True)
class Term:
    """What a class is: category, type and side as coded concepts, and a colour (red, green, blue in 0..255).

    known: whether the type is the class's own; else it is the fallback, and only the name tells what is meant.
    """

    category: Code
    type: Code
    side: Code | None
    colour: tuple[int, int, int]
    known: bool


def term_of(name: str) -> Term:
    """The concept of a class under ctune's name; for names without a code, tissue (or a mass, for a tumour).

    >>> term_of("kidney_left").type, term_of("kidney_left").side
    (('64033007', 'Kidney'), ('7771000', 'Left'))
    >>> term_of("mesentery").type, term_of("mesentery").known
    (('85756007', 'Tissue'), False)
    """
    kind, side = _split_side(name)
    if kind in _KINDS:
        value, meaning, colour = _KINDS[kind]
        drawn = colour if colour is not None else _drawn(name)
        # The left one a little darker: two kidneys of one colour could not be told apart in a list.
        shade = 0.85 if side == "left" else 1.0
        red, green, blue = (round(shade * part) for part in drawn)
        return Term(ANATOMY, (value, meaning), _SIDES.get(side), (red, green, blue), True)
    if name.rsplit("_", maxsplit=1)[-1] in _LESIONS:
        return Term(ALTERED, _MASS, None, _drawn(name), False)
    return Term(TISSUE, TISSUE, None, _drawn(name), False)


def class_of_code(value: str, side: str = "") -> str | None:
    """The class that a SNOMED CT code (and the code of a side) means, None for codes that name no single class.

    >>> class_of_code("64033007", "24028007"), class_of_code("85756007")
    ('kidney_right', None)
    """
    kind = next((name for name, (code, *_) in _KINDS.items() if code == value), None)
    word = next((word for word, (code, _) in _SIDES.items() if code == side), "")
    return f"{kind}_{word}" if kind and word else kind


def _split_side(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+)_(left|right)", name)
    return (match[1], match[2]) if match else (name, "")


def _drawn(name: str) -> tuple[int, int, int]:
    """A colour from the name alone: the same class is the same colour in every file."""
    first, second = hashlib.sha256(name.encode()).digest()[:2]
    red, green, blue = colorsys.hls_to_rgb(first / 256, 0.45 + second / 256 / 5, 0.65)
    return round(red * 255), round(green * 255), round(blue * 255)
