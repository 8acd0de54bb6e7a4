"""The masks that a round predicted, read one case and one class at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ctune.data.files import read_json
from ctune.predict import read_masks
from ctune.project import Project
from ctune.types import Grid, Mask


class PredictedMasks(Mapping[str, Mapping[str, Mask]]):
    """{case: {class: mask}} of a round's predictions, read when asked for."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder

    def __getitem__(self, case_id: str) -> Mapping[str, Mask]:
        if not (self.folder / case_id / "prediction.json").exists():
            raise KeyError(case_id)
        return _CaseMasks(self.folder / case_id, self.project.pool.grid(case_id))

    def __iter__(self) -> Iterator[str]:
        return (path.parent.name for path in self.folder.glob("*/prediction.json"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _CaseMasks(Mapping[str, Mask]):
    """{class: mask} of one case: a mask is read when it is asked for first."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        about = read_json(folder / "prediction.json")
        self.folder, self.grid = folder, grid
        self.names = tuple(about.get("labels") or about["classes"])
        self._read: dict[str, Mask] = {}

    def __getitem__(self, name: str) -> Mask:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._read:
            self._read |= read_masks(self.folder, self.grid, (name,))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
