"""ctune: grow a CT segmentation model together with experts, class by class, forgetting nothing."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only when it is asked for: torch comes with it.
    if name == "Segmenter":
        return import_module("ctune.segmenter").Segmenter
    raise AttributeError(f"module 'ctune' has no attribute {name!r}")
