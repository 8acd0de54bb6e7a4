"""What a tuning learns from: the data strategies, and what a class counts as where nobody annotated it.

``hybrid``: in the cases that an expert revised, everything that is known, merged (paper, section 2). ``revised-only``: the
revised masks of the tuned classes in these cases and nothing else. ``full``: what people have judged, original and revised,
in every case of the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctune.cohort import hybrid_of, prepare_labels
from ctune.config import Tuning
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.project import Project
from ctune.types import UNLABELLED, AnnotationRecord, HybridAnnotation, Mask, Source, Split

JUDGED = (Source.ORIGINAL, Source.REVISED)
"""Sources behind which a person stands."""

FORGETFUL = (
    "classes that nobody annotated are taught as background (tune.unlabelled = background): the model will forget "
    "them; this is for measuring the collapse, not for use"
)
"""The warning that goes with ``tune.unlabelled = "background"``."""


def senseless(settings: Tuning) -> list[str]:
    """Settings that do nothing, or nothing good, beside the others: a line each for people."""
    out = []
    if settings.start == "scratch" and settings.trainable != "all":
        out.append(
            f"start = scratch with trainable = {settings.trainable}: the encoder stays at random weights, so little is "
            "learnt; --trainable all trains it too"
        )
    if settings.reuse and settings.data == "full":
        out.append(
            f"reuse = {settings.reuse:g} does nothing with data = full: every case that people annotated trains already"
        )
    if settings.scores and not settings.reuse:
        out.append(
            f"scores = {settings.scores} does nothing with reuse = 0: no earlier case trains again; --reuse 0.1 takes a tenth of them"
        )
    if settings.neighbour_share and settings.data == "revised-only":
        out.append(
            f"neighbour_share = {settings.neighbour_share:g} does nothing with data = revised-only: labels of other "
            "classes take no part"
        )
    return out


def must_be_seen(cases: Sequence[PreparedCase], classes: Sequence[str]) -> None:
    """Raise ModelError for a class of which no case has a voxel: a new head would learn that it is nowhere."""
    for name in classes:
        labelled = [case for case in cases if name in case.labels]
        if not any((np.asarray(case.labels[name]) == 1).any() for case in labelled):
            raise ModelError(
                f"{name}: expected a voxel of it in at least one case, got {len(labelled)} annotated cases that are all "
                "empty on the network's grid; annotate one where it is, or leave the class out"
            )


def revised_cases(project: Project, classes: Sequence[str]) -> list[str]:
    """Pool cases in which an expert has revised at least one of `classes`, in any round."""
    wanted, pool = set(classes), project.pool
    return [
        case.id
        for case in pool.cases(Split.POOL)
        if wanted & {project.class_of(a) for a in pool.annotations(case.id) if a.source == Source.REVISED}
    ]


def judged_cases(project: Project) -> list[str]:
    """Pool cases in which people have annotated anything, by id."""
    pool = project.pool
    return [
        case.id
        for case in pool.cases(Split.POOL)
        if any(record.source in JUDGED for record in pool.annotations(case.id))
    ]


def training_cases(project: Project, classes: Sequence[str], settings: Tuning) -> list[str]:
    """The cases that a tuning of `classes` learns from; those of the validation and test splits never train."""
    if settings.data == "full":
        return [case.id for case in project.pool.cases(Split.POOL)]
    return revised_cases(project, classes)


def labels_of(
    project: Project, case_id: str, classes: Collection[str], trained: Collection[str], settings: Tuning
) -> HybridAnnotation:
    """The labels of one case that train under ``settings.data``.

    `classes` are tuned; `trained` are all whose labels can matter: `classes` alone under ``trainable = "heads"``, else
    all that the network has. A class of which nothing is known there is not in the result.
    """
    if settings.data == "revised-only":
        return only(hybrid_of(project, case_id, (Source.REVISED,)), classes)
    return only(hybrid_of(project, case_id, JUDGED if settings.data == "full" else tuple(Source)), trained)


def only(labels: HybridAnnotation, classes: Collection[str]) -> HybridAnnotation:
    """What the labels of a case say of `classes`."""
    return replace(
        labels,
        masks={n: m for n, m in labels.masks.items() if n in classes},
        origin={n: o for n, o in labels.origin.items() if n in classes},
        records={n: r for n, r in labels.records.items() if n in classes},
    )


def training_data(
    project: Project,
    classes: Sequence[str],
    trained: Sequence[str],
    settings: Tuning,
    replayed: Sequence[str] = (),
) -> tuple[list[PreparedCase], dict[str, list[AnnotationRecord]]]:
    """The cases with the labels that train, in the network's space, and {class: the annotations behind them}.

    A class without an annotation has no label in a case; only ``unlabelled = "background"`` gives it an empty mask. A
    case that says nothing of `trained` is left out. Cases in `replayed` train too, with what people judged in them
    (``replay``). One case is in memory at a time.
    """
    cases, used = list[PreparedCase](), {name: list[AnnotationRecord]() for name in trained}
    for one in material_of(project, classes, trained, settings, replayed):
        case, records = one.prepare(project)
        if case is not None:
            cases.append(case)
        for name, found in records.items():
            used[name] += found
    return cases, used


@dataclass(frozen=True)
class Material:
    """A case that trains, in a few words: what is needed to make its labels, here or by a worker elsewhere."""

    case_id: str
    classes: tuple[str, ...]
    trained: tuple[str, ...]
    settings: Tuning

    def prepare(
        self, project: Project
    ) -> tuple[PreparedCase | None, Mapping[str, Sequence[AnnotationRecord]]]:
        """The case in the network's space, None when it says nothing of `trained`, and {class: annotations behind it}."""
        labels = labels_of(project, self.case_id, self.classes, self.trained, self.settings)
        if not labels.masks:
            return None, {}
        taught = self.settings.unlabelled == "background"
        masks = as_background(labels.masks, self.trained) if taught else labels.masks
        return prepare_labels(project, self.case_id, masks), labels.records


def material_of(
    project: Project,
    classes: Sequence[str],
    trained: Sequence[str],
    settings: Tuning,
    replayed: Sequence[str] = (),
) -> list[Material]:
    """The cases of ``training_data``, not yet prepared."""
    judged = settings.model_copy(update={"data": "full"})
    chosen = [(case_id, settings) for case_id in training_cases(project, classes, settings)]
    return [
        Material(case_id, tuple(classes), tuple(trained), rule)
        for case_id, rule in (*chosen, *((case_id, judged) for case_id in replayed))
    ]


def as_background(masks: Mapping[str, Mask], classes: Sequence[str]) -> dict[str, Mask]:
    """Masks of all `classes` in which everything that nobody judged is background; (X, Y, Z) uint8, the inputs stay.

    This is the mistake behind the collapse of revised-only tuning (paper, table 1): here to be measured.
    """
    nothing = np.zeros_like(next(iter(masks.values())))
    return {
        name: np.where(masks[name] == UNLABELLED, np.uint8(0), masks[name]) if name in masks else nothing
        for name in classes
    }
