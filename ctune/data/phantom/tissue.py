"""What tissue looks like: Hounsfield units by contrast phase and how grainy each tissue is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

PHASES = ("native", "arterial", "portal")

HU: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "fat": (-102, -101, -99),
        "muscle": (52, 58, 63),
        "bone": (420, 420, 420),
        "marrow": (180, 185, 190),
        "lung": (-850, -850, -845),
        "heart": (44, 190, 150),
        "bowel": (36, 56, 70),
        "colon": (30, 34, 40),
        "liver": (56, 70, 110),
        "spleen": (49, 116, 118),
        "stomach": (40, 62, 74),
        "stomach_content": (24, 24, 24),
        "pancreas": (42, 96, 90),
        "kidney_right": (34, 168, 178),
        "kidney_left": (34, 168, 178),
        "medulla": (32, 84, 168),
        "postcava": (42, 78, 148),
        "aorta": (42, 298, 160),
        "artery": (42, 290, 158),
        "vein": (42, 86, 164),
        "gall_bladder": (9, 10, 11),
    }
)
"""Mean intensity of each tissue in the native, arterial and portal venous phase."""

AIR, GAS = -1000.0, -900.0

SPREAD = 7.0
"""Standard deviation of a tissue's mean between patients, HU."""

GRAIN: Mapping[str, float] = MappingProxyType(
    {
        "fat": 9,
        "spleen": 9,
        "pancreas": 17,
        "colon": 28,
        "stomach_content": 14,
        "lung": 25,
        "bone": 60,
        "marrow": 35,
    }
)
"""Standard deviation of the texture within a tissue, HU; ``GRAIN_ELSEWHERE`` for the others."""
GRAIN_ELSEWHERE = 7.0


def draw_intensities(rng: np.random.Generator, phase: int) -> dict[str, float]:
    """{tissue: HU} of one patient in one phase; both kidneys are alike, as both are fed by one aorta."""
    drawn = {tissue: values[phase] + float(rng.normal(0, SPREAD)) for tissue, values in HU.items()}
    drawn["kidney_left"] = drawn["kidney_right"] + float(rng.normal(0, 2))
    drawn["artery"] = drawn["aorta"]
    drawn["stomach_content"] += float(rng.uniform(-20, 30))
    return drawn
