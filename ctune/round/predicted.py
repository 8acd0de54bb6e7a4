"""The masks that a round predicted, read one case at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ctune.predict import read_masks
from ctune.project import Project
from ctune.types import Mask


class PredictedMasks(Mapping[str, Mapping[str, Mask]]):
    """{case: {class: mask}} of a round's predictions, read when asked for."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder

    def __getitem__(self, case_id: str) -> Mapping[str, Mask]:
        if not (self.folder / case_id / "prediction.json").exists():
            raise KeyError(case_id)
        return read_masks(self.folder / case_id, self.project.pool.grid(case_id))

    def __iter__(self) -> Iterator[str]:
        return (path.parent.name for path in self.folder.glob("*/prediction.json"))

    def __len__(self) -> int:
        return sum(1 for _ in self)
