"""What the review page shows and takes: functions on a project that know nothing of HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ctune.data.files import read_json
from ctune.data.nifti import write_mask
from ctune.errors import PoolError, RoundError, UnknownClassError
from ctune.importance import read_importances
from ctune.project import Project
from ctune.report.palette import ON_BLACK
from ctune.review.audit import AuditLog
from ctune.review.earlier import earlier, left
from ctune.review.spots import Looking, where_to_look
from ctune.review.state import ReviewState
from ctune.review.tokens import Expert, holder
from ctune.revise import RevisedClass
from ctune.round import folder_of, hand_in, rounds
from ctune.round.predicted import PredictedMasks
from ctune.select import Selected, read_csv
from ctune.types import Mask, Source

AGREES = 0.9
"""Dice from which two experts count as of one mind; below it a third is asked."""


class ReviewDesk:
    """The newest round of a project, as an expert sees it. tokens: the file of the experts' tokens."""

    def __init__(self, project: Project, tokens: Path | None = None) -> None:
        self.project, self.tokens = project, tokens
        self.root = project.root / "review"
        self.state = ReviewState(self.root)
        self.audit = AuditLog(self.root / "audit.jsonl")
        self._last: tuple[Path, Mapping[str, Mask]] | None = None
        """The predictions that were read last: opening a case asks for them class by class."""
        self._looking: tuple[tuple[int, str], Looking] | None = None

    def signed_in(self, secret: str) -> Expert | None:
        """Whose session it is, with the role that the expert has now; None once its token has ended."""
        found = self.state.session(secret)
        if found is None:
            return None
        expert, token = found
        if not token:
            return expert
        return holder(self.tokens, token) if self.tokens else None

    @property
    def round_number(self) -> int:
        """The newest round whose cases are selected. Raises RoundError when there is none."""
        ready = self.ready()
        if not ready:
            raise RoundError(
                "expected a round with selected cases, found none; begin one with `ctune round start MODEL`"
            )
        return ready[-1]

    def round_of(self, case_id: str) -> int:
        """The newest round that has the case in its queue: what is open stays open when the next round has begun.

        Raises PoolError for a case that no queue has.
        """
        return self._found(case_id)[0]

    def folder(self, case_id: str) -> Path:
        """Of the case's round."""
        return folder_of(self.project, self.round_of(case_id))

    def rows(self, number: int | None = None) -> list[Selected]:
        """The queue of a round, the newest by default."""
        return read_csv(folder_of(self.project, number or self.round_number) / "selection.csv")

    def row(self, case_id: str) -> Selected:
        """Raises PoolError for a case that no queue has."""
        return self._found(case_id)[1]

    def _found(self, case_id: str) -> tuple[int, Selected]:
        for number in reversed(self.ready()):
            for row in self.rows(number):
                if row.case_id == case_id:
                    return number, row
        raise PoolError(f"expected a case of the queue, got {case_id!r}; reload the queue")

    def ready(self) -> list[int]:
        """Rounds whose cases are selected, oldest first."""
        known = [past.number for past in rounds(self.project)]
        return [n for n in known if (folder_of(self.project, n) / "selection.csv").exists()]

    # What is shown --------------------------------------------------------------------------------------------------

    def queue(self, expert: str) -> dict[str, Any]:
        """The round's cases by importance, each with its reason and state; progress of the round."""
        leases = self.state.leases()
        verdicts = self.state.verdicts(self.round_number)
        items = []
        for row in [*self.rows(), *left(self, expert)]:
            revisers = self.revisers(row.case_id)
            agreement = self.agreement(row.case_id)
            lease = leases.get(row.case_id)
            unjudged = [
                v.expert for v in verdicts if v.case_id == row.case_id and v.verdict == "cannot_judge"
            ]
            apart = len(revisers) == 2 and agreement is not None and agreement < AGREES
            state = "done" if revisers else "open"
            state = "apart" if apart else "cannot judge" if unjudged and not revisers else state
            items.append({
                "id": row.case_id, "rank": row.rank, "score": row.score, "classes": list(row.classes),
                "reason": row.reason, "state": state, "experts": revisers, "unjudged": unjudged,
                "agreement": agreement, "lease": lease.expert if lease else None,
                "mine": expert in revisers, "draft": bool(self.state.drafts(row.case_id, expert, self.round_of(row.case_id)) or earlier(self, row.case_id, expert)),
                "round": self.round_of(row.case_id),
            })  # fmt: skip
        now = [item for item in items if item["round"] == self.round_number]
        done = sum(item["state"] in ("done", "cannot judge") for item in now)
        return {"round": self.round_number, "items": items, "done": done, "total": len(now)}

    def case(self, case_id: str, expert: str) -> dict[str, Any]:
        """What the page needs to open a case; class i of `classes` has label i from 1."""
        row, record = self.row(case_id), self.project.pool.case(case_id)
        why = {i.case_id: i.classes for i in read_importances(self.folder(case_id) / "scores.json")}.get(
            case_id, {}
        )
        return {
            "id": case_id, "shape": record.grid.shape, "affine": record.grid.affine.tolist(),
            "spacing": [float(s) for s in record.grid.spacing_mm], "gzip": record.image.name.endswith(".gz"),
            "reason": row.reason, "to_revise": list(row.classes),
            "classes": [
                {"name": n, "colour": ON_BLACK[i % len(ON_BLACK)], "reason": why[n].reason if n in why else "new class"}
                for i, n in enumerate(self.classes(case_id))
            ],
            "drafts": self.state.drafts(case_id, expert, self.round_of(case_id)),
            "round": self.round_of(case_id), "earlier": earlier(self, case_id, expert),
            "seconds": self.state.add_seconds(case_id, expert, self.round_of(case_id), 0.0),
            "agreement": self.agreement(case_id), "experts": self.revisers(case_id),
        }  # fmt: skip

    def classes(self, case_id: str) -> tuple[str, ...]:
        """Those to revise first, then all others that were predicted."""
        about = self.folder(case_id) / "predictions" / case_id / "prediction.json"
        predicted = read_json(about)["classes"] if about.exists() else []
        return tuple(dict.fromkeys([*self.row(case_id).classes, *predicted]))

    def class_names(self) -> list[str]:
        """The classes of the newest round's queue, those to revise first, then the project's others."""
        found = [name for row in self.rows() for name in self.classes(row.case_id)]
        return list(dict.fromkeys([*found, *self.project.config.classes]))

    def mask(self, case_id: str, name: str, expert: str) -> Mask:
        """What the expert goes on from, (X, Y, Z) uint8 of 0 and 1: the own draft, else the prediction, else nothing."""
        self._known(case_id, name)
        grid = self.project.pool.grid(case_id)
        draft = self.state.read_draft(case_id, expert, self.round_of(case_id), name, grid)
        if draft is not None:
            return draft
        predicted = self.predicted(case_id).get(name)
        return np.zeros(grid.shape, np.uint8) if predicted is None else _ones(predicted)

    def labels(self, case_id: str, expert: str) -> Mask:
        """All classes as one map, (X, Y, Z) uint8; where two claim a voxel the first of ``classes`` has it."""
        # As the files lie, X fastest: five times as fast as across them.
        out = np.zeros(self.project.pool.grid(case_id).shape, np.uint8, order="F")
        for number, name in reversed(list(enumerate(self.classes(case_id), 1))):
            np.copyto(out, np.uint8(number), where=self.mask(case_id, name, expert).view(np.bool_))
        return out

    def attention(self, case_id: str) -> Path | None:
        path = self.folder(case_id) / "attention" / f"{self.row(case_id).case_id}.nii.gz"
        return path if path.exists() else None

    def looking(self, case_id: str) -> Looking:
        """Where an expert should look in a case; the last one asked for is kept."""
        key = (self.round_of(case_id), case_id)
        if self._looking is None or self._looking[0] != key:
            grid, folder = self.project.pool.grid(case_id), self.folder(case_id) / "predictions" / case_id
            made = where_to_look(
                self.attention(case_id),
                folder,
                self.row(case_id).classes,
                grid,
                self.project.config.importance,
            )
            self._looking = key, made
        return self._looking[1]

    # What is taken --------------------------------------------------------------------------------------------------

    def save_draft(
        self, case_id: str, name: str, voxels: bytes, expert: str, number: int | None = None
    ) -> int:
        """Keep a draft; `voxels` are uint8 of 0 and 1, X fastest. Returns its version. Raises PoolError for other bytes.

        `number`: the round whose predictions the expert has before the eyes, the case's newest by default. A draft that was
        begun before the next round came is kept with its own, and offered there (``earlier.py``).
        """
        self._known(case_id, name)
        grid = self.project.pool.grid(case_id)
        if len(voxels) != int(np.prod(grid.shape)):
            raise PoolError(
                f"case {case_id}, {name}: expected {np.prod(grid.shape)} voxels, got {len(voxels)}; reload the page"
            )
        mask = np.frombuffer(voxels, np.uint8).reshape(grid.shape, order="F")
        if mask.max(initial=0) > 1:
            raise PoolError(
                f"case {case_id}, {name}: expected voxels of 0 and 1, got {mask.max()}; reload the page"
            )
        seen = self._seen(case_id, number)
        version = self.state.save_draft(case_id, expert, seen, name, mask, grid)
        self.audit.append(expert, "drew", case_id, round=seen, **{"class": name, "version": version})
        return version

    def add_seconds(self, case_id: str, expert: str, more: float, number: int | None = None) -> float:
        """Add active seconds and return their sum; `number` as of ``save_draft``: time goes with what was drawn in it."""
        return self.state.add_seconds(case_id, expert, self._seen(case_id, number), more)

    def accept(self, case_id: str, expert: str, *, edited: bool, comment: str) -> dict[str, Any]:
        """Save the expert's masks as revisions, by the way that ``ctune revise`` takes.

        As is: the predictions of the classes to revise. Edited: drafts in their place, and of any other class that has one.
        Returns the change per class and the agreement with other experts. Raises PoolError when there is nothing to save.
        """
        row = self.row(case_id)
        predicted = self.predicted(case_id)
        masks = {n: _ones(predicted[n]) for n in row.classes if n in predicted}
        if edited:
            drafts = self.state.drafts(case_id, expert, self.round_of(case_id))
            masks |= {name: self.mask(case_id, name, expert) for name in drafts}
        if not masks:
            raise PoolError(
                f"case {case_id}: expected a mask of {', '.join(row.classes)}, found neither prediction nor draft; draw it, "
                "or mark the class as absent"
            )
        return self.hand_in(case_id, masks, expert, "edited" if edited else "accepted", comment)

    def hand_in(
        self, case_id: str, masks: Mapping[str, Mask], expert: str, verdict: str, comment: str, *, timed: bool = True
    ) -> dict[str, Any]:  # fmt: skip
        """Save masks as revisions of a case, by the way that ``ctune revise`` takes, and keep the verdict.

        They took what was measured since the expert's last verdict on the case in this round; unknown where that is nothing,
        or where they were drawn elsewhere (not `timed`). Returns the change per class and the agreement with other experts.
        Raises PoolError for what is refused there.
        """
        grid, number = self.project.pool.grid(case_id), self.round_of(case_id)
        seconds = self.state.new_seconds(case_id, expert, number)
        with tempfile.TemporaryDirectory(dir=self.root) as name:
            for class_name, mask in masks.items():
                write_mask(Path(name) / case_id / f"{class_name}.nii.gz", mask, grid)
            took = seconds if timed and seconds > 0 else None
            report = hand_in(self.project, Path(name), expert=expert, seconds=took)
        if report.refused:
            raise PoolError(report.refused[0][1])
        self._judged(case_id, expert, number, verdict, comment, report.revised, seconds)
        return {"revised": [asdict(r) for r in report.revised], "agreement": self.agreement(case_id)}

    def cannot_judge(self, case_id: str, expert: str, comment: str) -> None:
        """Keep that the expert cannot tell, and why."""
        self._judged(case_id, expert, self.round_of(case_id), "cannot_judge", comment)

    # Experts side by side -------------------------------------------------------------------------------------------

    def revisers(self, case_id: str) -> list[str]:
        """Who has revised the case in this round, in order."""
        return list(dict.fromkeys(r.author for r in self._revisions(case_id)))

    def agreement(self, case_id: str) -> float | None:
        """The lowest Dice between two experts' newest masks of one class; None when no class has two. Both empty: 1."""
        newest: dict[str, dict[str, Any]] = {}
        for record in self._revisions(case_id):
            newest.setdefault(record.class_name, {})[record.author] = record
        found = []
        for by_expert in newest.values():
            for a, b in combinations(by_expert.values(), 2):
                one, two = (self.project.pool.read(r).mask == 1 for r in (a, b))
                total = int(one.sum()) + int(two.sum())
                found.append(2.0 * int((one & two).sum()) / total if total else 1.0)
        return min(found, default=None)

    def newest(self, case_id: str) -> dict[str, Mask]:
        """{class: the newest revision of this round}, (X, Y, Z) uint8; 255 counts as background."""
        newest = {record.class_name: record for record in self._revisions(case_id)}
        return {name: _ones(self.project.pool.read(r).mask) for name, r in newest.items()}

    def _revisions(self, case_id: str) -> list[Any]:
        # What is accepted while the next round is on its way counts for that one.
        since = self.round_of(case_id)
        return [
            r
            for r in self.project.pool.annotations(case_id)
            if r.source == Source.REVISED and r.round >= since
        ]

    def predicted(self, case_id: str) -> Mapping[str, Mask]:
        """{class: (X, Y, Z) uint8}, each read when it is asked for, of the round's prediction; empty when there is none."""
        folder = self.folder(case_id) / "predictions"
        last = self._last
        if last is None or last[0] != folder / case_id:
            last = (folder / case_id, PredictedMasks(self.project, folder).get(case_id, {}))
            self._last = last
        return last[1]

    def _known(self, case_id: str, name: str) -> None:
        if name not in self.classes(case_id):
            raise UnknownClassError(
                f"case {case_id}: expected one of its classes, got {name!r}; reload the page"
            )

    def _seen(self, case_id: str, number: int | None) -> int:
        """The round that the expert looks at, the case's newest by default. Raises PoolError for one that is not there."""
        newest = self.round_of(case_id)
        if number is not None and (number > newest or number not in self.ready()):
            raise PoolError(f"case {case_id}: expected a round up to {newest}, got {number}; reload the page")
        return newest if number is None else number

    def _judged(
        self, case_id: str, expert: str, number: int, verdict: str, comment: str,
        revised: tuple[RevisedClass, ...] = (), seconds: float | None = None,
    ) -> None:  # fmt: skip
        self.state.judge(case_id, expert, number, verdict, comment, seconds)
        self.state.release(case_id, expert)
        changed = {r.class_name: round(r.changed_ml, 3) for r in revised}
        self.audit.append(expert, verdict, case_id, round=number, changed_ml=changed, comment=comment)


def _ones(mask: Mask) -> Mask:
    """1 where the mask is 1, and 0 elsewhere, also where nobody has judged; in the order in which it lies."""
    return np.equal(mask, 1).view(np.uint8)
