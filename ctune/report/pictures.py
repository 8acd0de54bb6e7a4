"""Choose the cases that a report pictures, by rule and not by beauty, and read what is drawn of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctune.data.files import read_json
from ctune.data.nifti import read_labels, read_mask
from ctune.evaluate import CaseScore
from ctune.project import Project
from ctune.report.views import View, view_of_change, view_of_selected
from ctune.round import RoundState, folder_of
from ctune.select import Selected, read_csv
from ctune.types import UNLABELLED, Grid, Mask, Source


@dataclass(frozen=True)
class MaskFiles(Mapping[str, Mask]):
    """{class: mask} of files, each read when asked for: the masks of one CT together can be a gigabyte."""

    paths: Mapping[str, Path]
    grid: Grid

    def __getitem__(self, name: str) -> Mask:
        return read_mask(self.paths[name], self.grid, f"{self.paths[name].parent.name}, {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def predicted_files(folder: Path, case_id: str) -> dict[str, Path]:
    place = folder / "predictions" / case_id
    if not (place / "prediction.json").exists():
        return {}
    paths = {name: place / f"{name}.nii.gz" for name in read_json(place / "prediction.json")["classes"]}
    return {name: path for name, path in paths.items() if path.exists()}


def selected_views(project: Project, states: Sequence[RoundState], truth: Path | None) -> Iterator[View]:
    """The first case of each round's list, and the one in the middle of the last list."""
    picked = [(s, read_csv(folder_of(project, s.number) / "selection.csv")) for s in states]
    wanted = [(s, rows[0]) for s, rows in picked if rows]
    wanted += [(s, rows[len(rows) // 2]) for s, rows in picked[-1:] if len(rows) > 2]
    for state, row in wanted:
        yield _selected_view(project, state, row, truth)


def _selected_view(project: Project, state: RoundState, row: Selected, truth: Path | None) -> View:
    folder, case = folder_of(project, state.number), project.pool.load(row.case_id)
    heat = folder / "attention" / f"{row.case_id}.nii.gz"
    attention = read_labels(heat, case.grid, f"attention of {row.case_id}") if heat.exists() else None
    return view_of_selected(
        row.case_id,
        f"number {row.rank} of {state.cases} in round {state.number}; {row.reason}",
        case.volume,
        case.grid,
        predicted=MaskFiles(predicted_files(folder, row.case_id), case.grid),
        truth=_reference(project, row.case_id, truth, case.grid),
        attention=None if attention is None else attention.astype(np.uint8),
    )


def _reference(project: Project, case_id: str, truth: Path | None, grid: Grid) -> Mapping[str, Mask]:
    """The hidden truth, or what experts have drawn: the newest annotation of each class that is not a prediction."""
    if truth is not None:
        paths = {n: truth / case_id / "segmentations" / f"{n}.nii.gz" for n in project.config.classes}
        return MaskFiles({n: p for n, p in paths.items() if p.exists()}, grid)
    drawn = [a for a in project.pool.annotations(case_id) if a.source != Source.PREDICTED]
    return {a.class_name: _known(project.pool.read(a).mask) for a in drawn}


def _known(mask: Mask) -> Mask:
    return np.where(mask == UNLABELLED, 0, mask).astype(np.uint8)


def test_views(
    project: Project, states: Sequence[RoundState], scores: Sequence[CaseScore], wanted: int
) -> Iterator[View]:
    """Test cases predicted by the first and by the last model: the one in the middle by mean Dice, the worst, and on."""
    chosen = by_rule(scores)[:wanted]
    if not chosen:
        return
    from ctune.compositions import load_model
    from ctune.optimise import resolve_device
    from ctune.predict import masks_of, predict_case

    registry, config = project.open_registry(), project.config
    device = resolve_device(config.device)
    models = [load_model(registry, f"sha256:{d}", device) for d in (states[0].model, states[-1].model_out)]
    for case_id, caption in chosen:
        case = project.pool.load(case_id)
        predictions = (predict_case(m.network, case, config, model=m.digest) for m in models)
        before, after = (masks_of(p, config.inference.threshold) for p in predictions)
        truth = _reference(project, case_id, None, case.grid)
        yield view_of_change(
            case_id, caption, case.volume, case.grid, before=before, after=after, truth=truth
        )


def by_rule(scores: Sequence[CaseScore]) -> list[tuple[str, str]]:
    """(case, why) in the order in which test cases are shown; the mean of a case is over what is there or was predicted."""
    by_case: dict[str, list[float]] = {}
    for score in scores:
        if score.dice is not None:
            by_case.setdefault(score.case_id, []).append(score.dice)
    ranked = sorted((float(np.mean(dice)), case_id) for case_id, dice in by_case.items())
    middle = len(ranked) // 2
    why = {middle: "in the middle", 0: "the worst"}
    places = dict.fromkeys([*(why if len(ranked) > 1 else [0][: len(ranked)]), *range(len(ranked))])
    out = []
    for place in places:
        dice, case_id = ranked[place]
        name = why.get(place, f"number {place + 1} from below") if len(ranked) > 1 else "the only one"
        out.append((case_id, f"{name} of {len(ranked)} test cases by mean Dice, {dice:.3f}"))
    return out
