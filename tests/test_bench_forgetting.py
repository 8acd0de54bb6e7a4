"""The benchmark of forgetting at the size of a toy, its figures worked out by hand, and what each rival must do."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.forgetting import chapter as forgetting_chapter
from ctune.bench.forgetting import plots as forgetting_plots
from ctune.bench.forgetting import protocol as forgetting
from ctune.bench.forgetting.figures import gates, max_case_drop, summary, way_figures
from ctune.bench.forgetting.rivals import Pace, Task, find_rivals, rivals_left_out
from ctune.bench.forgetting.rounds import read_stage
from ctune.bench.report.plots import Bars, Lines, Plot, draw_plot
from ctune.bench.report.tables import Chapter
from ctune.bench.study import Scale
from ctune.config import BaseConfig, Optimisation, preset
from ctune.data.prepared import PreparedCase
from ctune.errors import UsageError
from ctune.losses import masked_dice_bce
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.report.palette import colour, marker
from ctune.types import UNLABELLED, Progress, silent

TOY = Scale(
    cases=2, revised=1, tests=1, epochs=1, tune_epochs=1, old=("liver", "spleen"), new=("aorta", "stomach")
)
RIVALS = find_rivals()
LONG = [name for name, rival in RIVALS.items() if rival.long]
SIDE = 8


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forgetting")


@pytest.fixture(scope="module")
def measured(work: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forgetting.SCALES, Preset.SMOKE, TOY)
        patch.setitem(forgetting.STEPS, Preset.SMOKE, 1)
        patch.setitem(forgetting.EQUALLY_LONG, Preset.SMOKE, True)
        patch.setitem(forgetting.CHANNELS, Preset.SMOKE, (2, 4))
        return forgetting.run("smoke", (0,), work, silent)


def test_continual_tuning_forgets_nothing_at_all(measured: Any) -> None:
    found = measured.measures
    assert (found["bwt"], found["forgetting"], found["max_case_drop"]) == (0.0, 0.0, 0.0)
    assert (found["voxels_changed"], found["unrevised_max_abs_logit_change"]) == (0, 0.0)
    assert len(measured.gates) == 4 and all(gate.passed for gate in measured.gates)


def test_every_way_and_every_round_is_kept(measured: Any, work: Path) -> None:
    seed = measured.details["seed 0"]
    assert list(seed["ways"]) == ["continual", *LONG] and set(seed["base"]["dice"]) == {"liver", "spleen"}
    assert list(seed["equal_time"]) == list(RIVALS)
    equal = {f"{way}, equal time": rounds for way, rounds in seed["equal_time"].items()}
    for way, rounds in (seed["ways"] | equal).items():
        assert [set(r["dice"]) for r in rounds] == [{"liver", "spleen", "aorta"}, {*TOY.classes}], way
        assert [set(r["voxels_changed"]) for r in rounds] == [
            {"liver", "spleen"},
            {"liver", "spleen", "aorta"},
        ]
        for figure in ("bwt", "max_case_drop", "acc"):
            assert way in measured.measures[f"{figure}_by_way"]
    stage = read_stage(work / "seed-0" / "rounds" / "EWC" / "2")
    pyramids = read_stage(work / "seed-0" / "rounds" / "rehearsal with pyramids" / "2").weights
    assert any(name.startswith("heads.aorta.bottom.") for name in pyramids), "of the new class"
    assert not any(name.startswith("heads.liver.bottom.") for name in pyramids), "of the base's own"
    assert stage.masks["liver"]["phantom_0002"].ndim == 3 and set(stage.state), "EWC remembers what mattered"


def test_a_verdict_says_what_the_rival_had(measured: Any) -> None:
    said = {way: verdict["said"] for way, verdict in measured.measures["continual_less_rival"].items()}
    assert said["LwF"].startswith("not decided: 1 seed")
    assert said["LwF"].endswith("; the rival had 1 steps a round")
    assert "; the rival had as long as continual tuning, " in said["LwF, equal time"]


def test_equal_time_is_that_of_continual_tuning(measured: Any) -> None:
    found = measured.measures["learning_seconds_by_way"]
    steps = measured.measures["steps_a_round_by_way"]
    assert steps["fine-tuning"] == 1.0 and steps["fine-tuning, equal time"] > 1.0
    # A step begun in time is finished.
    assert 0.9 < found["fine-tuning, equal time"] / found["continual"] < 2.0


def test_what_was_measured_is_not_measured_again(measured: Any, work: Path) -> None:
    steps: list[Progress] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forgetting.SCALES, Preset.SMOKE, TOY)
        patch.setitem(forgetting.EQUALLY_LONG, Preset.SMOKE, True)
        patch.setitem(forgetting.CHANNELS, Preset.SMOKE, (2, 4))
        again = forgetting.run("smoke", (0,), work, steps.append)
    assert not any(step.stage.startswith(("train", "tune", "learn")) for step in steps)
    assert again.measures == measured.measures


def test_the_drawing_shows_every_way(measured: Any) -> None:
    from small_result import result_of

    drawn = forgetting_plots.plots(result_of("forgetting", measured))
    lines = [plot for plot in drawn if isinstance(plot, Lines) and "near zero" not in plot.title]
    assert [len(plot.series) for plot in lines] == [1 + len(LONG), 1 + len(RIVALS)], "a panel a budget"
    for plot in lines:
        assert plot.series[0].name == "continual tuning" and len(set(plot.series[0].ys)) == 1, "a flat line"
    bars = [[bar.name for bar in plot.bars] for plot in drawn if isinstance(plot, Bars)]
    assert [len(names) for names in bars] == 2 * [1 + len(LONG), 1 + len(RIVALS)]
    assert all(("background taught" in names) == (len(names) > 1 + len(LONG)) for names in bars)


def test_the_chapter_tells_of_every_way(measured: Any) -> None:
    from small_result import result_of

    long, equal = forgetting_chapter.tables(result_of("forgetting", measured)).tables
    assert (len(long.rows), len(equal.rows)) == (1 + len(LONG), 1 + len(RIVALS))


def stage(moved: int = 0, **dice: list[float | None]) -> dict[str, Any]:
    by_case = {name: dict(zip("ab", values, strict=True)) for name, values in dice.items()}
    return {
        "dice": by_case,
        "voxels_changed": {"liver": moved},
        "cpu_seconds": 2.0,
        "steps": 3,
        "max_abs_logit_change": 0.0,
    }


def taught(steps: int, *rounds: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, "steps": steps} for one in rounds]


def told(budgets: int = 2) -> Any:
    """Three seeds of a base with a liver, to which one round adds the aorta. LwF learns it with 150 steps, with equal time
    nothing; background taught loses the liver. Before there were two budgets: LwF alone, with 25 steps, learns nothing."""
    base = stage(liver=[0.9, 0.7])
    ours = taught(192, stage(liver=[0.9, 0.7], aorta=[0.8, 0.8]))
    idle = stage(liver=[0.9, 0.7], aorta=[0.0, 0.0])
    ways = {"continual": ours, "LwF": taught(150, stage(9, liver=[0.8, 0.6], aorta=[0.7, 0.5]))}
    equal = {"LwF": taught(20, idle), "background": taught(30, stage(99, liver=[0.0, 0.0], aorta=[0.1, 0.1]))}
    seed = {"base": base, "ways": ways, "equal_time": equal}
    if budgets == 1:
        seed = {"base": base, "ways": {"continual": ours, "LwF": taught(25, idle)}}
    details = {f"seed {n}": seed for n in range(3)}
    seeds = list(details.values())
    return SimpleNamespace(measures=summary(seeds), details=details, gates=gates(summary(seeds)))


def chapter_of(told: Any) -> Chapter:
    from small_result import result_of

    return forgetting_chapter.tables(result_of("forgetting", told))


def plots_of(told: Any) -> list[Plot]:
    from small_result import result_of

    return forgetting_plots.plots(result_of("forgetting", told))


def test_the_chapter_has_a_table_a_budget() -> None:
    long, equal = chapter_of(told()).tables
    steps = long.columns.index("steps a round")
    assert [(row[0], row[steps]) for row in long.rows] == [("continual tuning", "192"), ("LwF", "150")]
    assert [(row[0], row[steps]) for row in equal.rows] == [
        ("continual tuning", "192"), ("LwF", "20"), ("background taught", "30"),
    ]  # fmt: skip
    assert long.title.endswith(": rivals with the long budget")
    assert equal.title.endswith(": rivals with the time that continual tuning took")
    assert all(table.caption.startswith("3 seeds, 2 test cases") for table in (long, equal))
    assert [long.rows[1][1], equal.rows[1][1]] == [".650", ".400"], "ACC of LwF with each budget"


def test_all_comparisons_of_both_budgets_are_one_family() -> None:
    found = told()
    assert {one["family"] for one in found.measures["continual_less_rival"].values()} == {3}
    assert all(
        "by Holm over all 3 comparisons with both budgets" in t.caption for t in chapter_of(found).tables
    )


def test_the_headlines_say_the_budget_of_the_best_rival() -> None:
    short = chapter_of(told()).short
    assert "less that of LwF, the best of its rivals with the long budget: better" in short[0]
    assert short[0].endswith("; the rival had 150 steps a round.")
    assert "less that of LwF, the best of its rivals with the time that continual tuning took: " in short[1]
    assert (
        short[1].endswith("; the rival had as long as continual tuning, 20 steps a round.")
        and len(short) == 2
    )


def test_who_learns_little_is_said_with_the_budget() -> None:
    assert chapter_of(told()).said == [
        "With the time that continual tuning took, LwF forgets little because it learns little: see the Dice of the new classes."
    ], "and nothing of earlier rivals"


def test_a_result_of_one_budget_is_told_as_ever() -> None:
    found = chapter_of(told(budgets=1))
    (table,) = found.tables
    assert table.title == "What is kept, lost and learnt" and [row[0] for row in table.rows] == [
        "continual tuning",
        "LwF",
    ]
    assert "by Holm over 1, 6 cases" in table.caption and "budget" not in table.caption
    (short,) = found.short
    assert "less that of LwF, the best of its rivals: better" in short and "the rival had" not in short
    assert found.said[0].startswith("LwF forgets little") and "PLOP was of an earlier form" in found.said[1]
    drawn = plots_of(told(budgets=1))
    assert len(drawn) == 3 and not any("budget" in plot.title or "dashed" in plot.caption for plot in drawn)
    assert "what more would bring was not measured" in drawn[-2].caption


def test_captions_say_budget_seeds_cases_and_what_is_drawn() -> None:
    drawn = plots_of(told())
    lines, bars = ([plot for plot in drawn if isinstance(plot, kind)] for kind in (Lines, Bars))
    assert (
        len(bars) == 4
        and "150 steps over all weights" in bars[0].caption
        and "20 to 30 steps" in bars[1].caption
    )
    assert all(
        "Bars: means of 3 seeds, 2 test cases each; lines: from the lowest" in one.caption for one in bars
    )
    assert all(
        "Bands: 95 % intervals over cases and seeds (n = 6 cases of 3 seeds)" in one.caption for one in lines
    )
    first, *_, last = [one for one in lines if "near zero" not in one.title]
    assert "the long budget" in first.title and "Rivals had the long budget" in first.caption
    assert "the time that continual tuning took" in last.title and "Their lines are dashed" in last.caption
    assert [s.dashed for s in first.series] == [False, False] and [s.dashed for s in last.series] == [
        False,
        True,
        True,
    ]
    assert all(draw_plot(plot, "p").startswith("<svg") for plot in drawn)


@pytest.mark.parametrize("kept", [("equal_time", "ways"), ("ways",), ()], ids=["both", "long", "none"])
def test_a_run_with_few_rivals_or_none_is_told(kept: tuple[str, ...]) -> None:
    found = told()
    for seed in found.details.values():
        seed["ways"] = {n: way for n, way in seed["ways"].items() if n == "continual" or "ways" in kept}
        seed["equal_time"] = seed["equal_time"] if "equal_time" in kept else {}
    chapter = chapter_of(found)
    assert len(chapter.tables) == max(1, len(kept)) and chapter.short[0].startswith(
        "Forgetting: after 1 rounds"
    )
    assert len([plot for plot in plots_of(found) if isinstance(plot, Bars)]) == 2 * max(1, len(kept))


@pytest.mark.parametrize("other", ["continual", *RIVALS])
def test_every_rival_has_a_place_of_its_own(other: str) -> None:
    ways = ["continual", *RIVALS]
    places = [forgetting_plots._place(way) for way in ways]
    looks = [forgetting_plots._colour(way) for way in ways]
    drawn = {(colour(look), marker(look)) for look in looks}
    assert places.count(forgetting_plots._place(other)) == 1, f"add {other} to _COLOURS of the plots"
    assert looks.count(forgetting_plots._colour(other)) == 1
    assert len({tint for tint, _ in drawn}) == len({mark for _, mark in drawn}) == len(ways)
    assert forgetting_plots._colour(other) == forgetting_plots._colour(f"{other}, equal time")


def test_figures_by_hand() -> None:
    base = stage(liver=[0.9, 0.7])
    rounds = [
        stage(5, liver=[0.9, 0.5], aorta=[0.6, None]),
        stage(7, liver=[0.7, 0.7], aorta=[0.6, 0.0], spleen=[0.4, 0.4]),
    ]
    found = way_figures(base, rounds)
    # liver .8 -> .7 -> .7; aorta .6 -> .3 (found where there is none); spleen .4.
    assert found["acc"] == pytest.approx((0.7 + 0.3 + 0.4) / 3)
    assert found["bwt"] == pytest.approx((-0.1 - 0.3) / 2)
    assert found["forgetting"] == pytest.approx((0.1 + 0.3) / 2)
    assert (
        found["max_case_drop"] == 1.0 and found["voxels_changed"] == 12 and found["learning_seconds"] == 4.0
    )
    assert found["dice_new_classes"] == pytest.approx((0.3 + 0.4) / 2)


def test_a_gain_is_no_drop() -> None:
    assert max_case_drop([{"liver": {"a": 0.5}}, {"liver": {"a": 0.9}}, {"liver": {"a": 0.7}}]) == 0.0
    assert max_case_drop([{"liver": {"a": 0.5}}, {"liver": {"a": 0.4}}]) == pytest.approx(0.1)


def test_one_voxel_breaks_the_promise() -> None:
    base, rounds = stage(liver=[0.9, 0.7]), [stage(1, liver=[0.9, 0.7], aorta=[0.5, 0.5])]
    (broken,) = [
        gate for gate in gates(summary([{"base": base, "ways": {"continual": rounds}}])) if not gate.passed
    ]
    assert str(broken) == "voxels_changed: expected at most 0, got 1; reference: bit for bit"


# Rivals ---------------------------------------------------------------------------------------------------------------


def case(case_id: str, **labels: int) -> PreparedCase:
    image = np.random.default_rng(len(case_id)).random((SIDE,) * 3, dtype=np.float32)
    masks = {}
    for name, first in labels.items():
        masks[name] = np.zeros(image.shape, np.uint8)
        masks[name][first : first + 3] = 1
    return PreparedCase(case_id, case_id, image, masks)


@pytest.fixture(scope="module")
def network() -> Network:
    base = build_base(BaseConfig(architecture="unet_small", channels=(4, 8)), 0)
    return Network(base, {n: build_head(n, "text", base, 0) for n in ("liver", "spleen", "aorta")})


def task(**changes: Any) -> Task:
    settings = Optimisation(
        patch_size=(SIDE,) * 3, patches_per_case=1, batch_size=2, learning_rate=3e-3, warmup_epochs=0,
        rotation_probability=0, intensity_shift_probability=0,
    )  # fmt: skip
    known = {
        "new": "aorta", "old": ("liver", "spleen"), "cases": [case("a", aorta=4), case("bb", aorta=4)],
        "earlier": [[case("ccc", liver=0, spleen=5), case("dddd", liver=0, spleen=5)]], "settings": settings,
        "pace": Pace(6), "seed": 0, "device": torch.device("cpu"), "on_progress": silent,
    }  # fmt: skip
    return Task(**{**known, **changes})


def moved(before: Network, after: Network) -> float:
    """How far the old classes went on the new cases: mean absolute change of their probabilities."""
    image = torch.from_numpy(np.stack([c.image for c in task().cases]))[:, None]
    with torch.no_grad():
        a, b = (torch.sigmoid(n.eval()(image, ("liver", "spleen"))) for n in (before, after))
    return float((a - b).abs().mean())


def learn(name: str, network: Network, **changes: Any) -> Network:
    learner = copy.deepcopy(network)
    RIVALS[name].learn(learner, task(**changes), {})
    return learner


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_learns_the_new_class_and_moves_everything(name: str, network: Network) -> None:
    done = learn(name, network)
    assert not done.training and moved(network, done) > 0
    image = torch.from_numpy(task().cases[0].image)[None, None]
    target = torch.from_numpy(task().cases[0].labels["aorta"])[None, None]
    with torch.no_grad():
        losses = [float(masked_dice_bce(n.eval()(image, ("aorta",)), target)) for n in (network, done)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", RIVALS)
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    name: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of a wide network does not fit an accelerator in one piece. Kept cases of rehearsal have more classes than new ones."""
    # Before the first step no map of PLOP has moved: the gradient of its distance, a norm at 0, has no direction.
    for weight in ("WEIGHT", "WEIGHT_OF_LOGITS"):
        monkeypatch.setattr(sys.modules["ctune_rivals.plop"], weight, 0.0)
    grads, largest = [], []
    for parts in (1, 2):
        settings = task().settings.model_copy(update={"batch_size": 3, "accumulate": parts})
        cases = [case("a", aorta=4), case("bb", aorta=4), case("ccccc", aorta=2)]
        seen: list[int] = []
        hook = network.base.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        done = learn(name, network, pace=Pace(1), settings=settings, cases=cases)
        hook.remove()
        largest.append([n for n in seen if n > 1])
        grads.append({n: p.grad for n, p in done.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any(g.abs().max() > 1e-4 for g in grads[0].values())
    # PLOP looks at whole batches before its first step, without gradients.
    assert 3 in largest[0] and largest[1][-1] == 2, "two of three samples and then the third"
    # The teacher's answers differ in their last bits: a voxel at the bound of what PLOP calls sure may fall on either side.
    apart = 0.03 if name == "PLOP" else 1e-3
    for one, grad in grads[0].items():
        assert (grad - grads[1][one]).norm() <= apart * grad.norm() + 1e-6, one


def test_what_is_measured_on_an_accelerator_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctune.bench.paper import protocol as paper

    for module in (forgetting, paper):
        monkeypatch.setattr(module, "torch_device", lambda _: "cuda")
    for config in (forgetting.config_of("gpu", 0), paper.config_of("gpu", "swin_unetr", 0)):
        assert (config.train.batch_size // config.train.accumulate, config.tune.window_cover) == (4, "organ")
    assert forgetting.config_of("cpu", 0).train.accumulate == 1


def test_what_holds_on_to_the_old_moves_it_less(network: Network) -> None:
    free = moved(network, learn("fine-tuning", network, pace=Pace(20)))
    assert moved(network, learn("LwF", network, pace=Pace(20))) < free
    assert moved(network, learn("MiB", network, pace=Pace(20))) < free
    assert moved(network, learn("background", network, pace=Pace(20))) > free


def test_springs_hold(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """How stiff they must be is a question of the network; a random one has hardly anything to hold."""
    free = moved(network, learn("fine-tuning", network, pace=Pace(20)))
    monkeypatch.setattr(sys.modules["ctune_rivals.ewc"], "STRENGTH", 1e4)
    assert moved(network, learn("EWC", network, pace=Pace(20))) < 0.9 * free


def test_the_new_head_of_a_rival_begins_with_the_odds_of_its_class(network: Network) -> None:
    """Of 8 slices the class has 3; the heads that are there keep what they learnt."""
    known = Network(network.base, {n: copy.deepcopy(network.head(n)) for n in ("liver", "spleen")})
    before = copy.deepcopy(known.state_dict())
    study = SimpleNamespace(project=SimpleNamespace(config=preset("phantom")), seed=0)
    forgetting.add_head(known, "aorta", "pyramid", task().cases, study)  # type: ignore[arg-type]
    assert known.head("aorta")._last_bias().item() == pytest.approx(np.log(3 / 5))
    assert all(torch.equal(known.state_dict()[name], value) for name, value in before.items())


def test_a_pace_of_seconds_ends_with_them() -> None:
    now = iter([0.0, 0.0, 1.0, 2.0, 3.9, 4.0])
    pace = Pace(seconds=4.0, clock=lambda: next(now))
    assert pace.goes_on() and pace.share == 0.25
    pace.step()
    assert not pace.goes_on(until=0.5) and pace.goes_on() and not pace.goes_on()
    assert Pace(seconds=0.0).goes_on(), "one step in any case"


@pytest.mark.parametrize("name", RIVALS)
def test_a_budget_that_is_gone_before_the_first_step_has_one_step(name: str, network: Network) -> None:
    pace = Pace(seconds=0.0)
    learn(name, network, pace=pace)
    assert pace.taken == 1


def test_the_new_head_alone_warms_up_in_lwf(network: Network) -> None:
    """Steps of the warm-up alone: the base and the old heads are what they were, the new head is not."""
    done = learn("LwF", network, pace=Pace(5))
    warm = copy.deepcopy(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["ctune_rivals.lwf"], "WARM", 1.0)
        RIVALS["LwF"].learn(warm, task(pace=Pace(5)), {})
    moved_by = {
        name: {n.split(".")[0] + "." + n.split(".")[1] for n, v in net.state_dict().items()
               if not torch.equal(v, network.state_dict()[n])}
        for name, net in (("whole", done), ("warm", warm))
    }  # fmt: skip
    assert moved_by["warm"] == {"heads.aorta"} and {"heads.liver", "heads.aorta"} < moved_by["whole"]


def test_old_answers_of_lwf_are_softened_and_summed_over_classes() -> None:
    from ctune_rivals.lwf import softened

    one = torch.zeros(1, 1, 2, 2, 2)
    assert float(softened(one, one)) == pytest.approx(np.log(2))
    assert float(softened(one.expand(1, 3, 2, 2, 2), one.expand(1, 3, 2, 2, 2))) == pytest.approx(
        3 * np.log(2)
    )
    # Said with p = sigmoid(4 / 2), answered with sigmoid(-4 / 2).
    p = 1 / (1 + np.exp(-2.0))
    wrong = float(softened(one - 4, one + 4))
    assert wrong == pytest.approx(-(p * np.log(1 - p) + (1 - p) * np.log(p)), rel=1e-5)


# PLOP -----------------------------------------------------------------------------------------------------------------

SURE = torch.full((1, 2), 0.125)


def test_a_sure_teachers_background_stays_labelled() -> None:
    """A confident organ, and a background that is sure enough but less so: both train, by medians of their own."""
    from ctune_rivals.plop import FLOOR, histogram, median_of, pseudo_labels

    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(12, 1, 100), rng.normal(-4, 0.3, 3900)])
    logits = torch.from_numpy(values).float().reshape(1, 1, 40, 10, 10)
    bounds = median_of(histogram(logits)).clamp(min=FLOOR)
    labels = pseudo_labels(logits, bounds)
    assert int((labels == 1).sum()) == 100 and int((labels == UNLABELLED).sum()) < 0.1 * 4000


def test_what_is_less_sure_than_most_of_its_kind_does_not_train() -> None:
    from ctune_rivals.plop import entropy, histogram, median_of, pseudo_labels

    logits = torch.tensor([0.2, 0.5, 1.0, 1.1, 1.2, -0.1, -1.0, -1.5]).reshape(1, 1, 8, 1, 1)
    bounds = median_of(histogram(logits))
    # The median of what is found is the entropy of 1.0, of what is not that of -1.0; rounded up to the end of its bin.
    assert bounds.tolist() == [
        pytest.approx([float(entropy(torch.tensor(v))) for v in (-1.0, 1.0)], abs=0.01)
    ]
    found = pseudo_labels(logits, bounds).flatten().tolist()
    assert found == [UNLABELLED, UNLABELLED, 1, 1, 1, UNLABELLED, 0, 0]
    assert pseudo_labels(torch.full((1, 1, 2, 1, 1), -9.0), SURE).flatten().tolist() == [0, 0]


def test_medians_are_of_the_rounds_own_cases(network: Network) -> None:
    from ctune_rivals.plop import FLOOR, medians

    found = medians(copy.deepcopy(network).eval(), task())
    assert found.shape == (2, 2) and bool((found >= FLOOR).all()) and bool((found <= np.log(2) + 1e-6).all())


def test_a_sample_weighs_what_is_sure_of_it_beside_the_new_class() -> None:
    from ctune_rivals.plop import share_of_sure

    target = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    labels = torch.tensor([[[1, 1, 0, 255]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    assert share_of_sure(labels, target).tolist() == [0.5, 1.0]


def test_pod_by_hand() -> None:
    """Maps of ones and of twos: every mean of squares is 1 or 4, so the distance is 3 times the root of the length."""
    from ctune_rivals.plop import distance, embedding

    ones = torch.ones(1, 2, 4, 4, 4)
    # At scale s a strip of s boxes along an axis, 4 x 4 of them, 3 axes, 2 channels.
    length = 2 * 3 * 16 * (1 + 2 + 4)
    assert embedding(ones).shape == (1, length)
    assert float(distance(ones, 2 * ones)) == pytest.approx(3 * length**0.5)
    assert embedding(torch.ones(1, 1, 5, 5, 5)).shape == (1, 3 * 25 * (1 + 2 + 4)), (
        "the last slice is left out"
    )


# EWC and MiB ----------------------------------------------------------------------------------------------------------


def test_springs_are_as_stiff_as_the_likelihood_is_curved() -> None:
    """One bias before a sigmoid: the Fisher information of a voxel is p (1 - p), whatever the patch."""
    from ctune_rivals.ewc import surprise

    rng = np.random.default_rng(0)
    p, voxels, total = 0.3, 64, 0.0
    for _ in range(400):
        bias = torch.tensor(float(np.log(p / (1 - p))), requires_grad=True)
        target = torch.from_numpy((rng.random((1, 1, 4, 4, 4)) < p).astype(np.uint8))
        surprise(bias.expand(1, 1, 4, 4, 4), target).backward()
        assert bias.grad is not None
        total += voxels * float(bias.grad) ** 2 / 400
    assert total == pytest.approx(p * (1 - p), rel=0.2)


def test_fisher_looks_at_what_the_last_round_labelled(network: Network) -> None:
    from ctune_rivals.ewc import fisher

    found = fisher(copy.deepcopy(network), task(old=("spleen", "liver"), earlier=[[case("e", liver=2)]]))
    assert not any(name.startswith("heads.aorta") for name in found)
    assert not any(bool(v.any()) for n, v in found.items() if n.startswith("heads.spleen"))
    assert any(bool(v.any()) for n, v in found.items() if n.startswith("heads.liver"))


# Which rivals ---------------------------------------------------------------------------------------------------------


def test_without_a_checkout_there_are_no_rivals(tmp_path: Path) -> None:
    assert find_rivals(tmp_path) == {}


def test_some_rivals_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTUNE_RIVALS", "rehearsal, LwF")
    assert list(find_rivals()) == ["LwF", "rehearsal"], "in their own order"


def test_a_name_that_is_no_rival_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CTUNE_RIVALS", "LwF,rehersal")
    said = (
        "^expected names of rivals in CTUNE_RIVALS, with commas, got 'rehersal'; known are fine-tuning, background, LwF, EWC, MiB, "
        "PLOP, rehearsal, rehearsal with pyramids$"
    )
    with pytest.raises(UsageError, match=said):
        find_rivals()
    for measure in (
        lambda: forgetting.run("smoke", (0,), tmp_path, silent),
        lambda: forgetting.measure_seed("smoke", 0, tmp_path, silent),
    ):
        with pytest.raises(UsageError, match="CTUNE_RIVALS"):
            measure()
    assert not list(tmp_path.iterdir()), "no cohort was drawn"


def left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What a run says that it did not measure, without measuring anything."""
    monkeypatch.setattr(forgetting, "measure_seed", lambda *_: (told().details["seed 0"], "digest"))
    return list(forgetting.run("smoke", (0,), tmp_path, silent).failures)


def test_what_is_left_out_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert left_out(monkeypatch, tmp_path) == []
    monkeypatch.setenv("CTUNE_RIVALS", ",".join(RIVALS))
    assert left_out(monkeypatch, tmp_path) == [], "all of them were asked for"
    monkeypatch.setenv("CTUNE_RIVALS", "LwF")
    assert left_out(monkeypatch, tmp_path) == ["not every rival: LwF alone, as CTUNE_RIVALS asked"]
    monkeypatch.setenv("CTUNE_RIVALS", "")
    assert find_rivals() == {}
    assert left_out(monkeypatch, tmp_path) == ["no rivals: CTUNE_RIVALS is empty"]
    assert rivals_left_out(tmp_path) == ["rivals: benchmarks/rivals is part of a checkout, and this is none"]
