"""Training and tuning as they end in the registry: which weights were kept, what was refused, and what the record says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_network import GRID, config, project, volume
from typer.testing import CliRunner

from cli.main import app
from ctune.compositions import load_model
from ctune.config import from_mapping
from ctune.continual import Tuning
from ctune.data.nifti import write_mask
from ctune.errors import PoolError, UsageError
from ctune.foundation import annotated_classes, checkpoint_path, name_in, retune_model, train_model
from ctune.project import Project, adjusted
from ctune.round import rounds, start
from ctune.types import Progress, Source, Split
from ctune.validate import refusal
from registry import ModelRecord

CPU = torch.device("cpu")


def wrong_liver() -> np.ndarray:
    """A liver where none is."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[10:14, 10:15, 2:9] = 1
    return mask


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three pool and four validation cases; a model that knows the liver well; an expert who draws it wrong and the aorta
    right."""
    plain = config().model_dump(mode="json")
    plain["train"] |= {"epochs": 20, "validate_every": 4}
    plain["tune"] |= {"epochs": 12, "validate_every": 4, "data": "revised-only", "patch_size": (16, 16, 16)}
    made, truth = project(
        tmp_path_factory.mktemp("foundation"), pool=3, test=5, train=plain["train"], tune=plain["tune"]
    )
    for index in range(20, 24):
        image, (hu, masks) = truth / f"case_{index}" / "ct.nii.gz", volume(index)
        from ctune.data.nifti import write_volume

        write_volume(image, hu, GRID)
        made.pool.add_case(
            f"case_{index}", image, Split.VALIDATION, masks, source=Source.ORIGINAL, author="truth"
        )
    train_model(made, "small", device=CPU)
    for case_id in ("case_0", "case_1"):
        aorta = volume(int(case_id[-1]))[1]["aorta"]
        for name, mask in (("liver", wrong_liver()), ("aorta", aorta)):
            made.pool.annotate(case_id, name, mask, source=Source.REVISED, author="dr. a", round=1)
    return made


@pytest.fixture
def copy(home: Project, tmp_path: Path) -> Project:
    shutil.copytree(home.root, tmp_path / "project")
    return Project(tmp_path / "project", home.config)


def retune(made: Project, *classes: str, force: bool = False, **changes: Any) -> tuple[ModelRecord, Tuning]:
    chosen = adjusted(made, "tune", changes)
    digest, done = retune_model(chosen, "small", classes, force=force, device=CPU)
    record = made.open_registry().record_of(digest)
    assert isinstance(record, ModelRecord)
    return record, done


def versions(made: Project) -> int:
    return len(made.open_registry().versions("small"))


# Training -------------------------------------------------------------------------------------------------------------


def test_training_keeps_the_weights_that_did_best_on_the_validation_cases(home: Project) -> None:
    registry = home.open_registry()
    head = load_model(registry, "small:1", CPU).record.heads["liver"]
    said = registry.measured(head)["validation"]
    assert (
        said["epoch"] in range(4, 21, 4)
        and said["cases"] == 4
        and said["low"] <= said["dice"] <= said["high"]
    )
    assert said["dice"] > 0.6


def test_a_training_that_is_killed_and_goes_on_keeps_the_same_weights(home: Project, tmp_path: Path) -> None:
    """Killed in epoch 7, after the look of epoch 4; its checkpoints are at every fifth epoch."""
    settings = home.config.model_dump(mode="json")
    settings["train"]["checkpoint_every"] = 5
    digests = []
    for way in ("whole", "killed"):
        shutil.copytree(home.root, tmp_path / way, ignore=shutil.ignore_patterns("registry", "training"))
        made = Project(tmp_path / way, from_mapping(settings, "here"))

        def stop(step: Progress) -> None:
            if step.stage == "train" and step.done == 7:
                raise KeyboardInterrupt

        if way == "killed":
            with pytest.raises(KeyboardInterrupt):
                train_model(made, "small", ["liver"], device=CPU, on_progress=stop)
            assert checkpoint_path(made, "small").with_suffix(".best").exists()
        digests.append(train_model(made, "small", ["liver"], device=CPU)[0])
    assert digests[0] == digests[1]


def test_there_must_be_something_to_learn(home: Project) -> None:
    with pytest.raises(
        PoolError, match="expected annotations of stomach in the pool, got none of stomach; import"
    ):
        train_model(home, "other", ["stomach"], device=CPU)
    assert annotated_classes(home) == {"liver", "spleen", "aorta"}


def test_a_digest_is_no_name() -> None:
    assert (name_in("small:3"), name_in("small@production")) == ("small", "small")
    with pytest.raises(UsageError, match="expected a name for the new version"):
        name_in("sha256:abc")


# A head that got worse ------------------------------------------------------------------------------------------------


def test_a_head_that_got_worse_is_not_registered(copy: Project) -> None:
    before = load_model(copy.open_registry(), "small", CPU)
    record, done = retune(copy, "liver")
    assert record == before.record and versions(copy) == 1 and done.kept == ("liver",)
    change = done.changes["liver"]
    assert change.worse and change.new < change.old and change.cases == 4 and change.high < 0
    text = refusal("liver", change)
    assert text.startswith(
        f"liver: expected a head no worse than the one it replaces, got Dice {change.new:.3f} after"
    )
    assert f"{change.old:.3f} on 4 cases" in text and "95 % interval" in text and "--force" in text


def test_the_other_heads_are_registered_all_the_same(copy: Project) -> None:
    before = load_model(copy.open_registry(), "small", CPU).record
    record, done = retune(copy, "liver", "aorta")
    assert done.kept == ("liver",) and versions(copy) == 2
    assert {n: record.heads[n] for n in before.heads} == before.heads and set(record.heads) == {
        *before.heads,
        "aorta",
    }
    assert record.note == "tuned liver, aorta; liver kept its old head"


def test_force_registers_it(copy: Project) -> None:
    before = load_model(copy.open_registry(), "small", CPU).record
    record, done = retune(copy, "liver", force=True)
    assert record.heads["liver"] != before.heads["liver"] and done.kept == () and done.changes["liver"].worse
    assert copy.open_registry().measured(record.heads["liver"])["change"]["high"] < 0


def test_where_the_base_moved_one_worse_class_refuses_all(copy: Project) -> None:
    record, done = retune(copy, "liver", "aorta", trainable="all")
    assert record == load_model(copy.open_registry(), "small", CPU).record and versions(copy) == 1
    assert set(done.kept) == {"liver", "spleen", "aorta"} and done.changes["liver"].worse


def test_without_a_validation_case_of_the_class_the_last_weights_stay_and_it_is_said(copy: Project) -> None:
    for case in copy.pool.cases(Split.VALIDATION):
        shutil.rmtree(case.image.parent)
    _, done = retune(copy, "liver")
    assert done.kept == () and done.changes == {} and done.result.kept == {} and versions(copy) == 2
    assert copy.open_registry().measured(record_head(copy, "liver"))["validation"] is None


def test_looks_can_be_switched_off(copy: Project) -> None:
    """Nothing looks while it trains; the old head and the new one are compared once, at the end."""
    _, done = retune(copy, "liver", validate_every=0)
    assert done.result.looks == {} and done.kept == ("liver",) and versions(copy) == 1
    assert done.result.kept["liver"].epoch == 12 and done.changes["liver"].worse


def test_tuning_stops_when_nothing_gets_better(copy: Project) -> None:
    """The wrong livers pull the head away: the first look is the best, the second and third end it."""
    _, done = retune(copy, "liver", validate_every=1, patience=2)
    looks = done.result.looks["liver"]
    best = done.result.kept["liver"].epoch
    assert looks[-1].epoch == best + 2 < 12 and len(done.result.losses["liver"]) == best + 2
    assert done.result.steps["liver"] == len(done.result.losses["liver"]) * 2


def test_a_tuning_of_everything_that_is_killed_goes_on_and_ends_the_same(
    home: Project, tmp_path: Path
) -> None:
    """Killed in epoch 7, after the look of epoch 4; its checkpoints are at every fifth epoch."""
    digests = []
    for way in ("whole", "killed"):
        shutil.copytree(home.root, tmp_path / way)
        made = adjusted(
            Project(tmp_path / way, home.config), "tune", {"trainable": "all", "checkpoint_every": 5}
        )
        training, seen = made.cache / "training", list[int]()

        def tell(step: Progress, way: str = way, seen: list[int] = seen) -> None:
            if step.stage == "train":
                seen.append(step.done)
                if way == "killed" and step.done == 7 and len(seen) < 8:
                    raise KeyboardInterrupt

        if way == "killed":
            with pytest.raises(KeyboardInterrupt):
                retune_model(made, "small", ["aorta"], force=True, device=CPU, on_progress=tell)
            assert len(list(training.glob("tune-*.safetensors"))) == 1
            assert len(list(training.glob("tune-*.best"))) == 1
            seen.extend([0] * 8)
        digests.append(retune_model(made, "small", ["aorta"], force=True, device=CPU, on_progress=tell)[0])
        assert list(training.glob("tune-*")) == [], "what it left goes when it is done"
        assert way == "whole" or seen[15] == 6, "it went on after epoch 5"
    assert digests[0] == digests[1]


def wrong_truth(folder: Path) -> Path:
    """What an expert would draw: the aorta as it is, the liver where none is."""
    for index in range(3):
        for name, mask in (("liver", wrong_liver()), ("aorta", volume(index)[1]["aorta"])):
            write_mask(folder / f"case_{index}" / "segmentations" / f"{name}.nii.gz", mask, GRID)
    return folder


def test_in_a_round_the_old_head_stays_and_the_rest_goes_on(copy: Project, tmp_path: Path) -> None:
    before = load_model(copy.open_registry(), "small", CPU)
    state = start(
        copy,
        name="small",
        model=before.digest,
        classes=["liver", "aorta"],
        truth=wrong_truth(tmp_path / "expert"),
    )
    assert state.next_arrow is None and rounds(copy)[0].arrows["tune"].summary["kept"] == ["liver"]
    assert state.arrows["tune"].summary["changes"]["liver"]["high"] < 0
    assert state.arrows["register"].summary["kept"] == ["liver"]
    after = load_model(copy.open_registry(), "small", CPU).record
    assert after.heads["liver"] == before.record.heads["liver"] and "aorta" in after.heads
    assert after.note == "round 1: liver, aorta; liver kept its old head"
    shown = CliRunner().invoke(app, ["round", "status", "--project", str(copy.root)])
    assert "; kept the old head of liver" in shown.stdout


@pytest.mark.parametrize("force", [False, True])
def test_a_round_that_keeps_all_gives_no_version_unless_forced(
    copy: Project, tmp_path: Path, force: bool
) -> None:
    """The base moves too, so that the worse liver refuses the whole version."""
    truth, before = wrong_truth(tmp_path / "expert"), load_model(copy.open_registry(), "small", CPU)
    free = adjusted(copy, "tune", {"trainable": "all"})
    state = start(
        free, name="small", model=before.digest, classes=["liver", "aorta"], truth=truth, force=force
    )
    assert (state.model_out == before.digest) == (not force) and versions(copy) == 1 + force
    assert set(state.arrows["register"].summary["kept"]) == (set() if force else {"liver", "spleen", "aorta"})
    assert rounds(free)[0].force == force


# How fresh heads begin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tune", "differs"),
    [
        ("aorta", {"trainable": "all"}, True),
        ("aorta", {"trainable": "heads+decoder"}, True),
        ("liver", {"trainable": "all", "start": "scratch"}, True),
        ("liver", {"trainable": "all", "head": "pyramid"}, True),
        ("liver", {"trainable": "all"}, False),
        ("aorta", {"trainable": "heads"}, False),
    ],
)
def test_fresh_heads_begin_with_their_odds_where_more_than_heads_trains(
    copy: Project, name: str, tune: dict[str, Any], differs: bool
) -> None:
    """As in a training; what a head has learnt is never moved."""
    plain, first = copy.config.model_dump(mode="json"), {}
    for way in ("random", "prior"):
        settings = {**plain, "heads": {**plain["heads"], "start_bias": way}}
        asked = {**tune, "data": "revised-only", "epochs": 1, "validate_every": 0}
        chosen = adjusted(Project(copy.root, from_mapping(settings, "here")), "tune", asked)
        _, done = retune_model(chosen, "small:1", [name], force=True, device=CPU)
        first[way] = next(iter(done.result.losses.values()))[0]
    assert (first["prior"] < first["random"]) if differs else (first["prior"] == first["random"])


# What the record says -------------------------------------------------------------------------------------------------


def record_head(made: Project, name: str) -> str:
    return load_model(made.open_registry(), "small", CPU).record.heads[name]


def test_from_scratch_is_a_base_of_its_own_without_parents(copy: Project) -> None:
    record, _ = retune(copy, "aorta", start="scratch", trainable="all")
    old = load_model(copy.open_registry(), "small:1", CPU).record
    assert record.parents == () and record.base != old.base and set(record.heads) == {"aorta"}
    assert record.note == "tuned aorta; from scratch"
    assert copy.open_registry().record_of(record.base).parents == ()  # type: ignore[union-attr]


def test_teaching_background_is_written_down(copy: Project) -> None:
    record, _ = retune(copy, "aorta", trainable="all", unlabelled="background", force=True)
    assert record.config["tune"]["unlabelled"] == "background"
    assert "WARNING: classes that nobody annotated are taught as background" in record.note


def test_a_head_says_what_it_learnt_from_and_how(copy: Project) -> None:
    record, _ = retune(copy, "aorta", data="revised-only")
    head = copy.open_registry().record_of(record.heads["aorta"])
    assert [(a.case_id, a.source, a.author) for a in head.annotations] == [  # type: ignore[union-attr]
        ("case_0", "revised", "dr. a"),
        ("case_1", "revised", "dr. a"),
    ]
    assert head.settings["data"] == "revised-only"  # type: ignore[union-attr]
