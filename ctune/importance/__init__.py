"""Importance: where the model is likely wrong, per case and class, and where in the image to look.

``ctune`` measures in millilitres and shares, so neither spacing nor field of view decides. ``aa8k`` is the published recipe
of AbdomenAtlas-8K (Qu et al., NeurIPS 2023, section 3), kept for comparison.
"""

from ctune.importance.case import score_case
from ctune.importance.measures import (
    binary_entropy,
    doubt,
    inconsistency,
    mutual_information,
    one_sided_entropy,
    overlaps,
)
from ctune.importance.plausibility import Usual, usual_volumes
from ctune.importance.published import AA8K, aa8k
from ctune.importance.values import (
    CaseImportance,
    ClassImportance,
    Importance,
    read_importances,
    write_importances,
)
from ctune.importance.weights import Example, Weights, learn, read_weights, write_weights

__all__ = [
    "AA8K",
    "CaseImportance",
    "ClassImportance",
    "Example",
    "Importance",
    "Usual",
    "Weights",
    "aa8k",
    "binary_entropy",
    "doubt",
    "inconsistency",
    "learn",
    "mutual_information",
    "one_sided_entropy",
    "overlaps",
    "read_importances",
    "read_weights",
    "score_case",
    "usual_volumes",
    "write_importances",
    "write_weights",
]
