"""A versioned registry of models that are a base plus one head a class. A leaf: it knows neither torch nor ctune."""

from registry.catalog import Event, Version
from registry.records import AnnotationUsed, BaseRecord, EvaluationRecord, HeadRecord, ModelRecord
from registry.registry import Registry
from registry.verify import VerifyReport

__all__ = [
    "AnnotationUsed",
    "BaseRecord",
    "EvaluationRecord",
    "Event",
    "HeadRecord",
    "ModelRecord",
    "Registry",
    "VerifyReport",
    "Version",
]
