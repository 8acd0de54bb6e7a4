"""The same in MLflow (SQLite, a local artifact folder), by its own documented client calls, in the same process.

Two ways of registering: `lean`, where one run holds all artifacts, and `guided`, as its guides do it, with a run for each
version. In favour of both: the file that ``log_artifact`` copies is written before the clock starts, and MLflow does not bring
the copy to the disk before it returns, as ours does.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctune.bench.registry.models import ALIAS, model_name
from ctune.types import OnProgress, Progress

CALLS = {
    "lean": "MlflowClient.log_artifact into a run that is there, MlflowClient.create_model_version",
    "guided": "MlflowClient.create_run, log_artifact, create_model_version, set_terminated",
    "resolve": "MlflowClient.get_model_version_by_alias",
}
_EXPERIMENT = "registry"


def is_here() -> bool:
    """Whether mlflow or mlflow-skinny is installed."""
    return importlib.util.find_spec("mlflow") is not None


class Rival:
    """A catalog of MLflow in `folder`, made when it is not there."""

    def __init__(self, folder: Path) -> None:
        # A benchmark tells nobody that it runs, and what MLflow logs while it makes its tables is no news.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)

        folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{folder.resolve() / 'mlflow.sqlite'}"
        self._client: Any = MlflowClient(tracking_uri=url, registry_uri=url)
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        place = (folder.resolve() / "artifacts").as_uri()
        self._experiment: str = (
            experiment.experiment_id if experiment else self._client.create_experiment(_EXPERIMENT, place)
        )
        self._run: Any = self._client.create_run(self._experiment)
        self._folder = folder

    def fill(self, versions: int, names: int, on_progress: OnProgress) -> None:
        """As many versions under as many names as in our registry; rows alone, without artifacts."""
        each = versions // names
        known = {model.name for model in self._client.search_registered_models(max_results=1000)}
        for number in range(names):
            name = model_name(number)
            if name not in known:
                self._client.create_registered_model(name)
            here = len(self._client.search_model_versions(f"name='{name}'"))
            for version in range(here, each):
                source = f"{self._run.info.artifact_uri}/{name}-{version}"
                self._client.create_model_version(name, source, self._run.info.run_id)
            self._client.set_registered_model_alias(name, ALIAS, str(max(1, each // 2)))
            on_progress(Progress("fill MLflow", number + 1, names))

    def registrations(self, name: str, label: str, data: bytes) -> dict[str, Callable[[], None]]:
        """{way: a call that registers `data` as the next version of `name`}; the file is there already."""
        file = self._folder / f"{label}.safetensors"
        file.write_bytes(data)

        def version(run: Any, folder: str) -> None:
            self._client.log_artifact(run.info.run_id, str(file), folder)
            self._client.create_model_version(name, f"{run.info.artifact_uri}/{folder}", run.info.run_id)

        def lean() -> None:
            version(self._run, label)

        def guided() -> None:
            run = self._client.create_run(self._experiment)
            version(run, "head")
            self._client.set_terminated(run.info.run_id)

        return {"mlflow_lean": lean, "mlflow_guided": guided}

    def resolve(self, name: str) -> str:
        """The source of the version that the alias means."""
        return str(self._client.get_model_version_by_alias(name, ALIAS).source)
