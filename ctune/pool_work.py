"""The verbs over many cases as work for an executor: what a worker loads once, and what it does for each case.

A model travels as its digest, never as an alias that may move meanwhile, and never as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ctune.cohort import cases_of, evaluate_case
from ctune.compositions import load_model
from ctune.config import Config, Inference, Preprocessing
from ctune.continual import feature_folder, replayed_cases
from ctune.data.cases_at_url import CasesAtUrl
from ctune.errors import DataError
from ctune.evaluate import CaseScore, write_scores
from ctune.executors.work import Done, Executor, Work, run_all
from ctune.export.onnx import OnnxNetwork
from ctune.importance.pool import Scoring
from ctune.importance.values import CaseImportance
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.inputs import Input
from ctune.inference.output import Wanted
from ctune.inference.runtime import ArrayRuntime, Runtime, TorchRuntime, as_runtime, versions_of
from ctune.model.freeze import fingerprint
from ctune.model.network import Network
from ctune.optimise import resolve_device
from ctune.outcome import compose
from ctune.project import Project
from ctune.strategy import Material, material_of
from ctune.subpatches import feature_windows
from ctune.tune import feature_source
from ctune.types import OnProgress, Split, View, silent

OpenRuntime = Callable[[], Runtime]
"""Loads a network where it is to run; it travels to workers, so it is a function of a module, or a ``partial`` of one."""


def open_network(project: Project, digest: str, device: str) -> Network:
    """The network of a registered model, on this machine. device: as in ``ctune.toml``."""
    return load_model(project.open_registry(), f"sha256:{digest}", resolve_device(device)).network


def open_tuned(project: Project, digest: str, device: str, weights: Path) -> Network:
    """The same with what a tuning left in the folder `weights` (``outcome``) in the place of what it replaces."""
    model = load_model(project.open_registry(), f"sha256:{digest}", resolve_device(device))
    return compose(model, weights)


def open_torch(
    project: Project, digest: str, device: str, classes: Sequence[str] | None, settings: Inference
) -> Runtime:
    """The same, ready to predict `classes` (all of its own when None)."""
    return TorchRuntime(open_network(project, digest, device), classes, settings)


def settings_of_onnx(path: Path, config: Config) -> tuple[str, Config]:
    """The digest of the model that a file of ``ctune export onnx`` holds, and `config` as that file needs it."""
    graph = OnnxNetwork(path)
    inference = config.inference.model_copy(update={"patch_size": graph.window})
    preprocessing = Preprocessing.model_validate(graph.about["preprocessing"])
    return str(graph.about["model"]), config.model_copy(
        update={"preprocessing": preprocessing, "inference": inference}
    )


def open_onnx(path: Path, classes: Sequence[str] | None) -> Runtime:
    """Such a file in onnxruntime, ready to predict `classes` (all of its own when None)."""
    graph = OnnxNetwork(path)
    wanted = tuple(dict.fromkeys(classes)) if classes else graph.classes
    return ArrayRuntime(partial(graph, classes=wanted), wanted)


class OneAtATime:
    """A runtime for several threads: its network runs for one of them at a time, while the others read and write."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._lock = runtime, Lock()

    @property
    def classes(self) -> tuple[str, ...]:
        return self._runtime.classes

    @property
    def device(self) -> torch.device:
        return self._runtime.device

    @property
    def versions(self) -> int:
        return versions_of(self._runtime)

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """See ``inference.runtime.Runtime``."""
        with self._lock:
            yield from self._runtime.logits(windows)


@dataclass(frozen=True)
class Predict:
    """Predict CTs (``inference.inputs.Input``), each to ``folder/<id>``; one that is finished there is not done again.

    A `folder` at a URL gets what is finished; until then a case is in a temporary folder of the worker.
    """

    open_runtime: OpenRuntime
    config: Config
    model: str
    folder: Path | CasesAtUrl
    wanted: Wanted
    views: tuple[View, ...] = ()
    overlap: int = 2

    def open(self) -> Callable[[Input], None]:
        """See ``executors.work.Work``. The function raises DataError for a CT that cannot be read."""
        runtime = OneAtATime(self.open_runtime())

        def do(one: Input) -> None:
            with self._place(one.case_id) as folder:
                job = Job(one.case_id, one.load, folder, one.series)
                refused = predict_jobs(
                    runtime, [job], self.config, model=self.model, wanted=self.wanted, views=self.views
                )
                if refused:
                    raise DataError(refused[0][1])

        return do

    def _place(self, case_id: str) -> AbstractContextManager[Path]:
        if isinstance(self.folder, CasesAtUrl):
            return self.folder.updating(case_id)
        return nullcontext(self.folder / case_id)


@dataclass(frozen=True)
class Evaluate:
    """Score a network on cases of the pool, by id; the function gives the scores of its classes.

    config: as in ``cohort.evaluate_cases``.
    """

    open_network: Callable[[], Network | Runtime]
    project: Project
    config: Config | None = None
    overlap: int = 1

    def open(self) -> Callable[[str], list[CaseScore]]:
        """See ``executors.work.Work``."""
        config = self.config or self.project.config
        return partial(evaluate_case, self.project, as_runtime(self.open_network(), config.inference), config)


@dataclass(frozen=True)
class Score:
    """Score predicted cases of the pool, by id; the function gives what is known of a case but its maps.

    predictions: where they are, if not where `how` says: a URL is read for a case that is not scored yet.
    """

    how: Scoring
    project: Project
    predictions: tuple[Path | CasesAtUrl, ...] = ()
    overlap: int = 1

    def open(self) -> Callable[[str], CaseImportance]:
        """See ``executors.work.Work``."""

        def do(case_id: str) -> CaseImportance:
            grid = self.project.pool.grid(case_id)
            if not self.predictions:
                return self.how.case(case_id, grid)
            with self._here(case_id, record_alone=True) as how:
                known = how.known(case_id)
            if known is not None:
                return known
            with self._here(case_id, record_alone=False) as how:
                return how.case(case_id, grid)

        return do

    @contextmanager
    def _here(self, case_id: str, *, record_alone: bool) -> Iterator[Scoring]:
        """How to score the case from folders of this machine."""
        with ExitStack() as stack:
            folders = [
                stack.enter_context(place.reading(case_id, record_alone=record_alone)).parent
                if isinstance(place, CasesAtUrl)
                else place
                for place in self.predictions
            ]
            yield replace(self.how, predictions=tuple(folders))


@dataclass(frozen=True)
class CacheFeatures:
    """Keep the frozen features that a tuning of `classes` will read, of cases that train; the function gives the number of
    windows."""

    open_network: Callable[[], Network]
    project: Project
    classes: tuple[str, ...]
    seed: int
    overlap: int = 1

    def open(self) -> Callable[[Material], int]:
        """See ``executors.work.Work``."""
        network, config = self.open_network(), self.project.config
        device = next(network.parameters()).device
        source = feature_source(
            feature_folder(self.project), network, fingerprint(network.base, modes=False), config.tune, device, pin=False
        )  # fmt: skip

        def do(material: Material) -> int:
            case, _ = material.prepare(self.project)
            cases = [] if case is None else [case]
            inference = config.inference
            found = feature_windows(
                source, cases, self.classes, inference.patch_size, inference.overlap, config.tune, self.seed, silent
            )  # fmt: skip
            return len(found)

        return do


def cache_on(
    executor: Executor, work: CacheFeatures, on_progress: OnProgress = silent
) -> list[tuple[str, str]]:
    """Fill the cache by the workers of `executor`; returns (id, reason) of cases whose features the tuning will compute."""
    project, settings, classes = work.project, work.project.config.tune, work.classes
    if settings.trainable != "heads" or settings.start != "model" or settings.cache_gb == 0:
        return []
    again = replayed_cases(project, classes, classes, work.seed)
    cases = material_of(project, classes, classes, settings, again)
    return run_all(
        executor, work, cases, total=len(cases), stage="cache features", name=lambda one: one.case_id, on_progress=on_progress
    )  # fmt: skip


def predict_on(
    executor: Executor, work: Predict, inputs: Sequence[Input], on_progress: OnProgress = silent
) -> tuple[list[str], list[tuple[str, str]]]:
    """Predict CTs by the workers of `executor`; returns the ids that were predicted and (id, reason) of the others."""
    refused = run_all(
        executor, work, inputs, total=len(inputs), stage="predict", name=lambda one: one.case_id, on_progress=on_progress
    )  # fmt: skip
    names = {case_id for case_id, _ in refused}
    return [one.case_id for one in inputs if one.case_id not in names], refused


def evaluate_on(
    executor: Executor, work: Evaluate, folder: Path, split: Split, on_progress: OnProgress = silent
) -> list[CaseScore]:
    """``cohort.evaluate_cases`` by the workers of `executor`: the same scores, in the same order.

    Raises DataError when a case could not be scored: means over fewer cases than there are would flatter.
    """
    cases = cases_of(work.project, split)
    found = _all(executor, work, cases, "evaluate", on_progress)
    scores = [score for case_id in cases for score in found[case_id]]
    write_scores(folder, scores)
    return scores


def score_on(
    executor: Executor, work: Score, case_ids: Sequence[str], on_progress: OnProgress = silent
) -> list[CaseImportance]:
    """Importance of predicted cases by the workers of `executor`, in the order of `case_ids`.

    Raises DataError when a case could not be scored: an expert would never see it.
    """
    found = _all(executor, work, case_ids, "score", on_progress)
    return [found[case_id] for case_id in case_ids]


def _all(
    executor: Executor, work: Work, case_ids: Sequence[str], stage: str, on_progress: OnProgress
) -> dict[str, Any]:
    """{case: answer}, of every case."""
    found = dict[str, Any]()

    def keep(done: Done[str]) -> None:
        found[done.item] = done.value

    refused = run_all(
        executor, work, case_ids, total=len(case_ids), stage=stage, name=str, on_done=keep, on_progress=on_progress
    )  # fmt: skip
    if refused:
        raise DataError("; ".join(f"{case_id}: {why}" for case_id, why in refused))
    return found
