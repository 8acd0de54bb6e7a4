"""Why a class is to be looked at, in words."""

from __future__ import annotations

from collections.abc import Mapping

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def reason(
    name: str,
    *,
    volume_ml: float,
    uncertain_ml: float,
    inconsistent_ml: float,
    overlapping_ml: float,
    wrong_side_ml: float,
    components: int,
    measures: Mapping[str, float],
) -> str:
    """E.g. "aorta: 14.2 mL uncertain, two components"; what is nothing out of the ordinary is left out."""
    if volume_ml == 0:
        parts = ["not found", f"{uncertain_ml:.1f} mL uncertain"]
    else:
        parts = [f"{uncertain_ml:.1f} mL uncertain"]
    if inconsistent_ml > 0.1 * max(volume_ml, 1.0):
        parts.append(f"{inconsistent_ml:.1f} mL inconsistent")
    if overlapping_ml > 0:
        parts.append(f"{overlapping_ml:.1f} mL overlap other classes")
    if components > 1:
        parts.append(f"{in_words(components)} components")
    if wrong_side_ml > 0:
        parts.append(f"{wrong_side_ml:.1f} mL on the wrong side")
    if volume_ml > 0 and measures.get("volume", 0.0) > 0:
        parts.append(f"an unusual volume of {volume_ml:.1f} mL")
    return f"{name}: " + ", ".join(parts)


def in_words(count: int) -> str:
    """Up to ten as a word.

    >>> in_words(2), in_words(12)
    ('two', '12')
    """
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
