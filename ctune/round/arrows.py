"""Each arrow of a round as one method: it reads what the arrows before left on disk, and leaves its own value there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from ctune.compositions import Model, load_model, record_evaluation
from ctune.continual import tune_model
from ctune.data.files import read_json, write_json
from ctune.errors import RoundError
from ctune.evaluate import CaseScore, read_scores, summarise
from ctune.executors.work import Executor
from ctune.expert import revise_selected
from ctune.foundation import register_on_newest
from ctune.global_features import features_of_cases
from ctune.hybrid import save_hybrid
from ctune.importance import read_importances, write_importances, write_weights
from ctune.importance.judged import judged_volumes
from ctune.importance.pool import scoring
from ctune.optimise import resolve_device
from ctune.outcome import new_heads, read_record, validation_of
from ctune.predict import read_masks
from ctune.project import Project
from ctune.round.by_case import ByCase
from ctune.round.calibration import learned_weights
from ctune.round.predicted import PredictedMasks
from ctune.round.revisions import begun, unrevised
from ctune.round.state import RoundState, folder_of, rounds
from ctune.select import (
    Budget,
    Selected,
    candidates_of,
    judged_classes,
    lacking,
    read_csv,
    select,
    write_csv,
)
from ctune.strategy import judged_cases, labels_of, revised_cases, training_cases
from ctune.types import OnProgress, Source, Split
from registry import ModelRecord, Registry

Leased: TypeAlias = Callable[[], Collection[str]]
"""Answers with the cases that experts have open now."""


def nobody() -> Collection[str]:
    """Where nobody reviews, no case is open."""
    return ()


class Waiting(Exception):
    """An arrow cannot go on before an expert has handed something in."""


class Desk:
    """Where a round is worked on; every method named after an arrow does it and returns its summary."""

    def __init__(
        self,
        project: Project,
        state: RoundState,
        on_progress: OnProgress,
        revisions_are_complete: bool,
        executor: Executor | None = None,
        leased: Leased = nobody,
    ) -> None:
        self.project, self.state, self.on_progress, self.executor = project, state, on_progress, executor
        self.leased = leased
        self.revisions_are_complete = revisions_are_complete
        self.folder = folder_of(project, state.number)
        self.device = resolve_device(project.config.device)

    # What several arrows read -------------------------------------------------------------------------------------

    @cached_property
    def registry(self) -> Registry:
        return self.project.open_registry()

    @cached_property
    def model(self) -> Model:
        return load_model(self.registry, f"sha256:{self.state.model}", self.device)

    @cached_property
    def by_case(self) -> ByCase:
        return ByCase(self.project, self.state.model, lambda: self.model, self.executor, self.on_progress)

    @property
    def candidates(self) -> list[str]:
        """Pool cases that lacked a judgement of at least one class of the round when it began to predict.

        Kept from then on: predicting a pool takes hours, and a case that is imported meanwhile has no prediction.
        """
        path = self.folder / "candidates.json"
        if not path.exists():
            write_json(path, lacking(self.project, self.state.classes))
        return list(read_json(path))

    @property
    def weights(self) -> Path:
        return self.folder / "heads"

    @property
    def selected(self) -> list[Selected]:
        return read_csv(self.folder / "selection.csv")

    # The arrows ---------------------------------------------------------------------------------------------------

    def predict(self) -> dict[str, Any]:
        """Predict every candidate; with ``importance.consistency`` also how its prediction changes under views."""
        cases = self.candidates
        self.by_case.predict(cases, self.folder / "predictions")
        return {"cases": len(cases), "classes": list(self.model.network.classes)}

    def score(self) -> dict[str, Any]:
        """Importance of every candidate, over the round's classes that the model knows (else all it knows)."""
        known = self.model.network.classes
        classes = [c for c in self.state.classes if c in known] or list(known)
        weights = learned_weights(self.project)
        how = scoring(
            [self.folder / "predictions"], self.candidates, self.folder / "attention", classes=classes,
            config=self.project.config, weights=weights, judged=judged_volumes(self.project, classes),
        )  # fmt: skip
        importances = self.by_case.score(how, self.candidates)
        write_importances(self.folder / "scores.json", importances)
        write_weights(self.folder / "weights.json", weights)
        return {"cases": len(importances), "classes": classes}

    def select(self) -> dict[str, Any]:
        """The cases for the expert, most important first, with the classes to revise in each.

        Raises RoundError when there is none.
        """
        state, offered = self.state, read_importances(self.folder / "scores.json")
        annotated, features = list[str](), {}
        if state.strategy == "diverse":
            annotated = judged_cases(self.project)
            wanted = sorted({*annotated, *(one.case_id for one in offered)})
            base = self.model.network.base
            features = features_of_cases(self.project, base, wanted, self.device, self.on_progress)
        leased = sorted(self.leased())
        rows = select(
            candidates_of(self.project, offered, state.classes),
            strategy=state.strategy,
            budget=Budget(state.cases, state.annotations, state.minutes),
            classes=state.classes,
            seed=state.seed,
            features=features,
            annotated=annotated,
            leased=leased,
            judged=judged_classes(self.project),
        )
        if not rows:
            raise RoundError(
                f"round {state.number}: expected a case to ask about, got none of {len(offered)}: {len(leased)} are open by "
                "experts, the others have been judged; go on with `ctune round resume` when cases are free, or give the "
                "round up with `ctune round abandon`"
            )
        write_csv(self.folder / "selection.csv", rows)
        return {"cases": [row.case_id for row in rows], "leased": leased}

    def revise(self) -> dict[str, Any]:
        """Take the expert's masks: a simulated expert writes them now, a real one has handed them in or is waited for.

        Raises RoundError for a class that nobody has ever revised when the round is to go on with what there is.
        """
        if self.state.truth:
            revise_selected(
                self.project,
                Path(self.state.truth),
                self.selected,
                PredictedMasks(self.project, self.folder / "predictions"),
                round_number=self.state.number,
                expert=self.state.expert,
                seed=self.state.seed,
                on_progress=self.on_progress,
            )
        missing = unrevised(self.project, self.selected)
        done = begun(self.selected, missing)
        if not done or (missing and not self.revisions_are_complete):
            raise Waiting
        self._must_be_revised(missing)
        return {"cases": sorted(done), "missing": missing, "seconds": self._expert_seconds(done)}

    def hybrid(self) -> dict[str, Any]:
        """Put together, for every case that trains, the labels that the data strategy takes."""
        settings, classes = self.project.config.tune, self.state.classes
        cases = training_cases(self.project, classes, settings)
        every = tuple(dict.fromkeys([*self.model.network.classes, *classes]))
        for case_id in cases:
            if settings.data == "hybrid":
                self._keep_predictions(case_id)
            save_hybrid(
                self.folder / "hybrid" / case_id, labels_of(self.project, case_id, classes, every, settings)
            )
        return {"cases": cases, "data": settings.data}

    def tune(self) -> dict[str, Any]:
        """Tune the heads of the round's classes and prove that nothing else moved; the weights are kept as files."""
        self.by_case.cache(self.state.classes, self.state.seed)
        done = tune_model(
            self.project,
            self.model,
            self.state.classes,
            self.weights,
            seed=self.state.seed,
            device=self.device,
            force=self.state.force,
            on_progress=self.on_progress,
        )
        proof = done.proof
        return {
            "kept": list(done.kept),
            "changes": {name: asdict(change) for name, change in done.changes.items()},
            "validation": validation_of(done.result),
            "seconds": done.result.seconds,
            "cache_seconds": done.result.cache_seconds,
            "steps": dict(done.result.steps),
            "base_fingerprint": proof.base_fingerprint if proof else None,
            "unrevised_max_abs_logit_change": max(proof.max_abs_change.values(), default=0.0)
            if proof
            else None,
            "compared_logits": proof.voxels if proof else 0,
        }

    def evaluate(self) -> dict[str, Any]:
        """Dice, NSD and HD95 of the new model on the test cases; before the first round also of the one it starts from."""
        if not self.project.pool.cases(Split.TEST):
            return {"cases": 0, "classes": {}}
        before = folder_of(self.project, 0) / "evaluation"
        if not (before / "scores.json").exists() and not any(past.model_out for past in rounds(self.project)):
            self._record(self.model.digest, self.by_case.evaluate(before, None))
        scores = self.by_case.evaluate(self.folder / "evaluation", self.weights)
        means = {name: summary.dice for name, summary in summarise(scores).items()}
        return {"cases": len({s.case_id for s in scores}), "classes": means}

    def register(self) -> dict[str, Any]:
        """A new version of the model: the tuned heads are new, the rest is the old by digest.

        A class whose new head is worse on the validation cases keeps its old one; when all do, there is no new version.
        A version that came while the round ran is what the heads go on (``register_on_newest``): its own stay.
        """
        state = self.state
        landed = register_on_newest(
            self.project,
            self.model,
            self.weights,
            state.name,
            self._versions_before(),
            seed=state.seed,
            round_number=state.number,
            measured={"seconds": state.arrows["tune"].seconds, "device": str(self.device)},
            note=f"round {state.number}: {', '.join(state.classes)}",
            maybe_again=True,
        )
        if (self.folder / "evaluation" / "scores.json").exists():
            self._record(landed.digest, self._scores_of(landed.digest))
        kept = read_record(self.weights)["kept"]
        return {"model": landed.digest, "name": state.name, "kept": kept, "onto": landed.onto}

    # What arrows share --------------------------------------------------------------------------------------------

    def _record(self, model: str, scores: Sequence[CaseScore]) -> None:
        data = {case.id: case.sha256 for case in self.project.pool.cases(Split.TEST)}
        record_evaluation(self.registry, model, Split.TEST, data, scores)

    def _versions_before(self) -> list[str]:
        """The versions of the name that were there when the round began; all that there are where that was not kept."""
        name, newest = self.state.name, self.state.newest
        versions = self.registry.versions(name)
        return [str(v) for v in versions if newest is None or v.version <= newest]

    def _scores_of(self, digest: str) -> list[CaseScore]:
        """What was measured of the heads that model `digest` has; it may have others that came meanwhile."""
        record, measured = self.registry.record_of(digest), self.model.record.heads
        assert isinstance(record, ModelRecord)
        tuned = new_heads(self.weights)
        ours = {name for name, head in record.heads.items() if name in tuned or head == measured.get(name)}
        return [s for s in read_scores(self.folder / "evaluation") if s.class_name in ours]

    def _must_be_revised(self, missing: Mapping[str, Sequence[str]]) -> None:
        if self.project.config.tune.data == "full":
            return
        for name in dict.fromkeys(name for names in missing.values() for name in names):
            if not revised_cases(self.project, [name]):
                raise RoundError(
                    f"round {self.state.number}: expected a revision of {name} in at least one case to learn it from, got none; "
                    "hand one in, or give the round up with `ctune round abandon` and begin one without the class"
                )

    def _expert_seconds(self, cases: Sequence[str]) -> float:
        records = [a for c in cases for a in self.project.pool.annotations(c) if a.source == Source.REVISED]
        return sum(a.seconds or 0.0 for a in records if a.round == self.state.number)

    def _keep_predictions(self, case_id: str) -> None:
        """Put into the pool, as predicted annotations, the classes of a selected case that nobody has judged."""
        folder = self.folder / "predictions" / case_id
        if not (folder / "prediction.json").exists():
            return
        pool = self.project.pool
        model = read_json(folder / "prediction.json")["model"]
        known = pool.annotations(case_id)
        judged = {self.project.class_of(a) for a in known if a.source != Source.PREDICTED}
        kept = {self.project.class_of(a) for a in known if a.model == model}
        for name, mask in read_masks(folder, pool.grid(case_id)).items():
            if name not in judged | kept:
                pool.annotate(
                    case_id,
                    name,
                    mask,
                    source=Source.PREDICTED,
                    author="ctune",
                    round=self.state.number,
                    model=model,
                )
