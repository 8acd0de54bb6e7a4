"""Numbers of the validation cases against hand-made ones, the watch over a training, and the splits that never move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import GRID, SIDE, config, network, prepared, project, volume
from torch import nn

from ctune import watch
from ctune.cohort import evaluate_cases
from ctune.compositions import load_model
from ctune.config import Config
from ctune.continual import probe_windows, validation_data
from ctune.data.importing import import_cases
from ctune.data.layouts import find_cases
from ctune.data.nifti import write_mask
from ctune.data.prepared import PreparedCase
from ctune.data.splits import Splits
from ctune.errors import PoolError
from ctune.foundation import train_model
from ctune.model.features import FeatureCache
from ctune.model.freeze import fingerprint, tune_only
from ctune.round import hand_in
from ctune.types import UNLABELLED, Source, Split
from ctune.validate import CaseDice, ClassDice, class_dice, compare, dice_of
from ctune.watch import Look, Validation, Watch, cached_features, live_features

CPU = torch.device("cpu")


def cases(*dice: float | None) -> list[CaseDice]:
    return [CaseDice(f"case_{i}", d) for i, d in enumerate(dice)]


# Numbers --------------------------------------------------------------------------------------------------------------


def test_dice_of_two_overlapping_rods() -> None:
    truth, predicted = np.zeros((8, 1, 1), np.uint8), np.zeros((8, 1, 1), np.uint8)
    truth[0:4], predicted[2:6] = 1, 1
    assert dice_of(predicted, truth) == 0.5
    assert dice_of(predicted * 0, truth) == 0.0 and dice_of(predicted, truth * 0) == 0.0
    assert dice_of(predicted * 0, truth * 0) is None


def test_what_nobody_judged_does_not_count() -> None:
    truth, predicted = np.zeros((8, 1, 1), np.uint8), np.ones((8, 1, 1), np.uint8)
    truth[0:2], truth[2:8] = 1, UNLABELLED
    assert dice_of(predicted, truth) == 1.0


def test_the_mean_leaves_out_what_is_rightly_absent_and_the_interval_is_that_of_the_rest() -> None:
    found = class_dice(cases(0.5, 0.7, None, 0.9))
    assert found.mean == pytest.approx(0.7) and len(found.cases) == 4
    assert found.low is not None and found.high is not None and 0.5 <= found.low < 0.7 < found.high <= 0.9


def test_the_interval_against_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.05, 400)
    found = class_dice(cases(*values.tolist()))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=5e-4)
    assert found.high == pytest.approx(values.mean() + half, abs=5e-4)
    assert found == class_dice(cases(*values.tolist())), "seeded"


def test_nothing_to_measure() -> None:
    assert class_dice(cases(None, None)).mean is None and class_dice([]).mean is None


def test_worse_everywhere_is_worse() -> None:
    change = compare(class_dice(cases(0.8, 0.7, 0.9, 0.8)), class_dice(cases(0.7, 0.65, 0.8, 0.75)))
    assert change is not None and change.worse
    assert (change.old, change.new, change.cases) == (pytest.approx(0.8), pytest.approx(0.725), 4)
    assert change.change == pytest.approx(-0.075) and change.low <= change.change <= change.high < 0


def test_a_fall_that_a_few_cases_make_is_not_called_worse() -> None:
    change = compare(class_dice(cases(0.8, 0.8, 0.8, 0.8)), class_dice(cases(0.85, 0.85, 0.85, 0.5)))
    assert change is not None and change.change < 0 < change.high and not change.worse


def test_pairs_are_cases_not_positions() -> None:
    old = class_dice([CaseDice("a", 0.9), CaseDice("b", 0.1)])
    new = class_dice([CaseDice("b", 0.2), CaseDice("a", 1.0), CaseDice("c", 0.0)])
    change = compare(old, new)
    assert change is not None and change.cases == 2 and change.change == pytest.approx(0.1)
    assert compare(old, class_dice([CaseDice("z", 1.0)])) is None


def test_finding_an_organ_where_there_is_none_is_a_fall() -> None:
    change = compare(class_dice(cases(0.8, None)), class_dice(cases(0.8, 0.0)))
    assert change is not None and change.change == pytest.approx(-0.5)


# The watch ------------------------------------------------------------------------------------------------------------


class Scripted:
    """A module whose one weight is the number of the epoch, and a Dice that is read off a list."""

    def __init__(self, *dice: float, keep: Path | None = None, **settings: object) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        self.dice, self.asked = dice, 0
        tune = config().tune.model_copy(update={"validate_every": 1, "epochs": len(dice), **settings})
        self.watch = Watch(self.module, self._dice, tune, keep)

    def _dice(self) -> dict[str, ClassDice]:
        self.asked += 1
        return {"liver": class_dice(cases(self.dice[int(self.weight) - 1]))}

    @property
    def weight(self) -> float:
        return float(self.module.weight.detach())

    def run(self, until: int | None = None) -> int:
        for epoch in range(1, (until or len(self.dice)) + 1):
            nn.init.constant_(self.module.weight, epoch)
            if self.watch.after(epoch):
                return epoch
        return epoch


def test_the_best_weights_are_put_back() -> None:
    script = Scripted(0.1, 0.6, 0.3, 0.6, 0.5, patience=0)
    assert script.run() == 5 and script.weight == 5
    look = script.watch.restore()
    assert look is not None and look.epoch == 2 and script.weight == 2, "the earlier of two that are equal"


def test_it_stops_when_nothing_got_better_for_so_many_looks() -> None:
    assert Scripted(0.1, 0.6, 0.3, 0.4, 0.9, patience=2).run() == 4
    assert Scripted(0.1, 0.6, 0.3, 0.7, 0.1, 0.9, patience=2).run() == 6
    assert Scripted(0.6, 0.3, 0.3, 0.3, patience=0).run() == 4


def test_patience_begins_when_something_was_found() -> None:
    script = Scripted(0.0, 0.0, 0.0, 0.0, 0.2, 0.1, 0.1, 0.9, patience=2)
    assert script.run() == 7
    assert script.watch.best == Look(5, 0.2, {"liver": class_dice(cases(0.2))})


def test_it_looks_every_few_epochs_and_at_the_end() -> None:
    script = Scripted(*[0.1 * i for i in range(1, 8)], validate_every=3, patience=0)
    script.run()
    assert [look.epoch for look in script.watch.looks] == [3, 6, 7] and script.asked == 3
    never = Scripted(0.1, 0.2, validate_every=0)
    never.run()
    assert never.watch.restore() is None and never.weight == 2 and never.asked == 0


def test_a_watch_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The training goes on from epoch 2, before the best look; what was seen after that is not looked at twice."""
    keep, dice = tmp_path / "best", (0.1, 0.6, 0.8, 0.3, 0.4, 0.2)
    whole = Scripted(*dice, patience=2)
    stopped = whole.run()
    killed = Scripted(*dice, patience=2, keep=keep)
    killed.watch.resume("one")
    killed.run(until=4)
    again = Scripted(*dice, patience=2, keep=keep)
    again.watch.resume("one")
    for epoch in range(3, 7):
        nn.init.constant_(again.module.weight, epoch)
        if again.watch.after(epoch):
            break
    assert epoch == stopped == 5 and again.asked == 1
    assert again.watch.restore() == whole.watch.restore() and again.weight == whole.weight == 3
    assert again.watch.looks == whole.watch.looks


@pytest.mark.parametrize("damage", ["another training", "half a file"])
def test_a_watch_takes_only_what_is_its_own_and_whole(tmp_path: Path, damage: str) -> None:
    keep = tmp_path / "best"
    first = Scripted(0.5, 0.6, keep=keep)
    first.watch.resume("one")
    first.run()
    if damage == "half a file":
        keep.write_bytes(keep.read_bytes()[:50])
    again = Scripted(0.5, 0.6, keep=keep)
    again.watch.resume("two" if damage == "another training" else "one")
    assert again.watch.looks == []


# Looking at cases -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A model with a test case, of volumes larger than the window, so that windows overlap."""
    window = {"patch_size": (16, 16, 8), "overlap": 0.5, "windows_per_batch": 2}
    longer = {**config().train.model_dump(), "epochs": 15}
    made, _ = project(tmp_path_factory.mktemp("look"), pool=2, test=2, inference=window, train=longer)
    train_model(made, "small", device=CPU)
    return made


def test_a_look_gives_the_dice_of_the_whole_evaluation(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The phantoms' own grid is the network's up to its axes: both ways of measuring agree, up to MONAI's float32."""
    net = load_model(trained.open_registry(), "small", CPU).network
    expected = {
        (s.class_name, s.case_id): s.dice for s in evaluate_cases(trained, net, tmp_path / "evaluation")
    }
    assert any(0.0 < dice < 1.0 for dice in expected.values() if dice is not None), "worth comparing"
    live = live_features(net.base, trained.config.inference.patch_size, CPU)
    found = Validation(as_validation(trained), live, trained.config.inference, CPU).dice(net, net.classes)
    got = {(name, c.case_id): c.dice for name, dice in found.items() for c in dice.cases}
    assert got == {key: dice and pytest.approx(dice, abs=1e-6) for key, dice in expected.items()}


def test_cached_features_give_the_same_up_to_half_precision(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    net = load_model(trained.open_registry(), "small", CPU).network
    size, inference = trained.config.inference.patch_size, trained.config.inference
    cache = FeatureCache(tmp_path, net.base, fingerprint(net.base, modes=False), CPU)
    looks = [
        Validation(as_validation(trained), features, inference, CPU).dice(net, ("liver",))["liver"].mean
        for features in (live_features(net.base, size, CPU), cached_features(cache, size))
    ]
    assert looks[0] == pytest.approx(looks[1], abs=0.005)


def as_validation(made) -> list[PreparedCase]:  # type: ignore[no-untyped-def]
    from ctune.cohort import hybrid_of, prepare_labels

    return [prepare_labels(made, c.id, hybrid_of(made, c.id).masks) for c in made.pool.cases(Split.TEST)]


def test_many_classes_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net, case, asked = network(), prepared(0, ("liver", "spleen")), []
    looked = Validation([case], live_features(net.base, (SIDE,) * 3, CPU), config().inference, CPU)
    whole = looked.dice(net, net.classes)
    logits = net.logits
    monkeypatch.setattr(net, "logits", lambda features, names: asked.append(names) or logits(features, names))
    monkeypatch.setattr(watch, "AT_ONCE", case.image.size)
    assert looked.dice(net, net.classes) == whole and asked == [["liver"], ["spleen"]]


def test_a_look_leaves_modes_and_weights_alone(tmp_path: Path) -> None:
    net = network()
    tune_only(net, ("liver",))
    before = fingerprint(net)
    features = live_features(net.base, (SIDE,) * 3, CPU)
    looked = Validation([prepared(0, ("liver",))], features, config().inference, CPU)
    assert set(looked.dice(net, ("liver", "spleen"))) == {"liver"}, "no case annotates the spleen"
    assert fingerprint(net) == before and net.head("liver").training


# The split is for life ------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    _, truth = project(tmp_path / "source", pool=8, test=0)
    return truth


def splits(made) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {case.id: str(case.split) for case in made.pool.cases()}


def empty(root: Path) -> object:
    from ctune.project import create_project

    settings: Config = config()
    return create_project(root, settings)


def test_another_draw_never_moves_a_case_that_is_there(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    found = find_cases(source, "totalsegmentator")
    import_cases(made.pool, found[:6], splits=Splits(test=1, validation=2, seed=0))  # type: ignore[attr-defined]
    before = splits(made)
    assert sorted(before.values()) == ["pool"] * 3 + ["test"] + ["validation"] * 2
    for seed in range(1, 6):
        report = import_cases(made.pool, found, splits=Splits(test=2, validation=3, seed=seed))  # type: ignore[attr-defined]
        assert not report.refused
        assert {case: split for case, split in splits(made).items() if case in before} == before


def test_a_case_that_is_wanted_in_another_split_is_refused(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    found = find_cases(source, "totalsegmentator")[:1]
    import_cases(made.pool, found, splits=Splits(rest=Split.VALIDATION, strict=True))  # type: ignore[attr-defined]
    report = import_cases(made.pool, found, splits=Splits(rest=Split.POOL, strict=True))  # type: ignore[attr-defined]
    assert [c.reason for c in report.refused] == [
        "case case_0: expected split validation, which it has for good, got pool; leave --split out for cases that "
        "are there"
    ]
    with pytest.raises(PoolError, match="expected a new case id, got 'case_0'"):
        made.pool.add_case("case_0", source / "case_0" / "ct.nii.gz", Split.POOL)  # type: ignore[attr-defined]
    assert splits(made) == {"case_0": "validation"}


def test_a_split_that_was_edited_afterwards_is_noticed(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    import_cases(
        made.pool,  # type: ignore[attr-defined]
        find_cases(source, "totalsegmentator")[:1],
        splits=Splits(rest=Split.VALIDATION),
    )
    record = made.root / "pool" / "case_0" / "case.json"  # type: ignore[attr-defined]
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"validation"', '"pool"'))
    with pytest.raises(
        PoolError, match=r"case case_0: expected the split and the CT .* got another in .* \(split pool\)"
    ):
        made.pool.case("case_0")  # type: ignore[attr-defined]


def test_the_same_ct_under_another_id_stays_in_its_split(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    image, other = (source / f"case_{i}" / "ct.nii.gz" for i in (0, 1))
    made.pool.add_case("first", image, Split.VALIDATION)  # type: ignore[attr-defined]
    with pytest.raises(
        PoolError,
        match="case again: expected a CT that is in no other split, got that of first, which is in the split validation",
    ):
        made.pool.add_case("again", image, Split.POOL)  # type: ignore[attr-defined]
    made.pool.add_case("other", other, Split.POOL)  # type: ignore[attr-defined]
    made.pool.add_case("twin", image, Split.VALIDATION)  # type: ignore[attr-defined]
    assert splits(made) == {"first": "validation", "other": "pool", "twin": "validation"}


def test_experts_do_not_revise_what_is_kept_for_validation(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    import_cases(
        made.pool,  # type: ignore[attr-defined]
        find_cases(source, "totalsegmentator")[:1],
        splits=Splits(rest=Split.VALIDATION),
    )
    write_mask(tmp_path / "in" / "case_0" / "aorta.nii.gz", volume(0)[1]["aorta"], GRID)
    report = hand_in(made, tmp_path / "in", expert="dr. a")  # type: ignore[arg-type]
    assert "kept for validation; it must not train a head" in dict(report.refused)["case_0"]


def test_validation_knows_what_people_judged_alone(source: Path, tmp_path: Path) -> None:
    made = empty(tmp_path / "made")
    import_cases(
        made.pool,  # type: ignore[attr-defined]
        find_cases(source, "totalsegmentator")[:2],
        classes=["liver"],
        splits=Splits(rest=Split.VALIDATION),
    )
    made.pool.annotate(  # type: ignore[attr-defined]
        "case_0", "aorta", volume(0)[1]["aorta"], source=Source.PREDICTED, author="ctune", model="0" * 64
    )
    found = validation_data(made, ["liver", "aorta"])  # type: ignore[arg-type]
    assert [(c.case_id, set(c.labels)) for c in found] == [("case_0", {"liver"}), ("case_1", {"liver"})]
    assert probe_windows(made, []).shape == (0, 1, SIDE, SIDE, SIDE)  # type: ignore[arg-type]
