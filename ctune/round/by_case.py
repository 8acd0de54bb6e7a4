"""What a round does case by case: in this process, or by the workers of an executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ctune.cohort import evaluate_cases, pool_inputs, predict_cases
from ctune.compositions import Model
from ctune.errors import DataError
from ctune.evaluate import CaseScore
from ctune.executors.local import Local
from ctune.executors.work import Executor
from ctune.importance import CaseImportance
from ctune.importance.pool import Scoring
from ctune.inference.output import Wanted
from ctune.outcome import compose
from ctune.pool_work import (
    CacheFeatures,
    Evaluate,
    Predict,
    Score,
    cache_on,
    evaluate_on,
    open_network,
    open_tuned,
    predict_on,
    score_on,
)
from ctune.project import Project
from ctune.round.earlier import open_with_earlier, with_earlier
from ctune.types import OnProgress, Split


@dataclass(frozen=True)
class ByCase:
    """model: loads the model that the round starts from here, where it is needed; digest: of it. executor: None for here."""

    project: Project
    digest: str
    model: Callable[[], Model]
    executor: Executor | None
    on_progress: OnProgress

    def predict(self, cases: Sequence[str], folder: Path) -> None:
        """Raises DataError when cases cannot be read; the others are predicted."""
        project, settings = self.project, self.project.config.importance
        views, inference = settings.views_of_rounds, project.config.inference
        if self.executor is None:
            model = self.model()
            runtime = with_earlier(model.registry, self.digest, model.network, inference, settings.rounds)
            predict_cases(
                project, runtime, self.digest, cases, folder, views=views, on_progress=self.on_progress
            )
            return
        runtimes = partial(
            open_with_earlier, project, self.digest, project.config.device, inference, settings.rounds
        )
        work = Predict(runtimes, project.config, self.digest, folder, Wanted(probabilities=True), views)
        _, refused = predict_on(self.executor, work, pool_inputs(project, cases), self.on_progress)
        if refused:
            raise DataError("; ".join(f"{case_id}: {why}" for case_id, why in refused))

    def score(self, how: Scoring, cases: Sequence[str]) -> list[CaseImportance]:
        """Importance of predicted cases."""
        return score_on(self.executor or Local(), Score(how, self.project), cases, self.on_progress)

    def cache(self, classes: Sequence[str], seed: int) -> None:
        """Keep the features that a tuning will read; alone, the tuning does it itself, and so it does what a worker could not."""
        if self.executor is not None:
            network = partial(open_network, self.project, self.digest, self.project.config.device)
            cache_on(
                self.executor, CacheFeatures(network, self.project, tuple(classes), seed), self.on_progress
            )

    def evaluate(self, folder: Path, weights: Path | None) -> list[CaseScore]:
        """Scores on the test cases of the model, with what was tuned where there are `weights`."""
        project, device = self.project, self.project.config.device
        if self.executor is None:
            model = self.model()
            network = compose(model, weights) if weights else model.reload()
            return evaluate_cases(project, network, folder, on_progress=self.on_progress)
        opened = (
            partial(open_tuned, project, self.digest, device, weights)
            if weights
            else partial(open_network, project, self.digest, device)
        )
        return evaluate_on(self.executor, Evaluate(opened, project), folder, Split.TEST, self.on_progress)
