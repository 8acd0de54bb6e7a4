"""A versioned registry of models that are a base plus one head a class. A leaf: it knows neither torch nor ctune."""

from registry.records import (
    AnnotationUsed,
    BaseRecord,
    EvaluationRecord,
    EventRecord,
    HeadRecord,
    ModelRecord,
)
from registry.registry import Loaded, Registry
from registry.rows import Name, Version
from registry.verify import VerifyReport

__all__ = [
    "AnnotationUsed",
    "BaseRecord",
    "EvaluationRecord",
    "EventRecord",
    "HeadRecord",
    "Loaded",
    "ModelRecord",
    "Name",
    "Registry",
    "VerifyReport",
    "Version",
]
