"""Nine colours that differ for every kind of colour vision, after Okabe and Ito (2008), and marks that differ without any.

Three tints of each: on white paper, on a dark page, on black pictures. Class i of a report has colour i everywhere.
"""

from __future__ import annotations

ON_WHITE = ("#0072b2", "#d18b00", "#008f68", "#b8578e", "#c44e00", "#3d9fdb", "#7d7d00", "#6f4ba0", "#707070")
ON_DARK = ("#4fa8e0", "#f0ac2e", "#2fc79a", "#e08cbb", "#f0803c", "#8fd0f5", "#cccc52", "#b794e0", "#b5b5b5")
ON_BLACK = ("#38a6ff", "#ffb000", "#1fe0a8", "#ff8fd0", "#ff7a33", "#a3dcff", "#e6e64d", "#c79bff", "#e0e0e0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def colour(number: int) -> str:
    """Of the class `number` from 1, on white; a tenth class begins again."""
    return ON_WHITE[(number - 1) % len(ON_WHITE)]


def marker(number: int) -> str:
    """Of the class `number` from 1; classes that share a colour have other markers."""
    return MARKERS[(number - 1 + (number - 1) // len(ON_WHITE)) % len(MARKERS)]
