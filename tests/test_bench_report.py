"""The pages of benchmarks: the run with most seeds of each, promises broken said so, one file that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from ctune.bench.inference import plots as inference_plots
from ctune.bench.report.markdown import markdown
from ctune.bench.report.pages import write_pages
from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series, draw_plot, with_common_axes
from ctune.bench.report.sections import NO_ACCELERATOR, Run, read_notes, sections
from ctune.bench.result import Attempt, BenchResult, Gate, all_results, write_result
from ctune.bench.speed import chapter as speed_chapter
from ctune.bench.speed import plots as speed_plots
from ctune.errors import DataError, UsageError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMES = {"median_ms": 8.0, "p95_ms": 12.5, "max_ms": 20.0, "n": 60}
LINE = Series("ours", [1, 2, 3], [0.2, 0.5, 0.6], low=[0.1, 0.4, 0.5], high=[0.3, 0.6, 0.7])
PLOTS: dict[str, Plot] = {
    "lines": Lines(
        "Dice against seconds", "seconds", "Dice", [LINE, Series("theirs", [1, 3], [0.1, 0.2], dashed=True)]
    ),
    "log": Lines("Dice against seconds", "seconds", "Dice", [LINE], log_x=True, y_limits=(0, 1)),
    "flat": Lines("Forgetting", "round", "change", [Series("all", [1, 2], [0.0, 0.0])]),
    "bars": Bars(
        "Seconds",
        "seconds",
        [Bar("tuning", 2.0, 1.5, 2.5), Bar("training", 100.0, text="50 times")],
        log_x=True,
    ),
}


def result(preset: str = "cpu", started: str = "2026-01-02T03:04:05+00:00", **changes: object) -> BenchResult:
    """A result of the registry's benchmark that one can picture."""
    ways = dict.fromkeys(("plain", "ctune"), TIMES)
    kinds = dict.fromkeys(("name", "version", "alias", "digest"), TIMES)
    fields = {
        "what": "registry", "preset": preset, "device": "cpu", "seeds": (0, 1), "started": started, "seconds": 341.0,
        "machine": {"processor": "Processor <4> & more", "cores": 2, "load_1_minute": 0.5}, "versions": {"ctune": "0.1"},
        "peak_memory_mb": 172.4, "attempts": [Attempt(started=started, seconds=341.0, peak_memory_mb=1, commit=c) for c in ("abc", "abc", "def+")],
        "measures": {"resolve_ms": 0.0758, "show_seconds": 0.7, "of_none": None, "dice": {"ours": 0.61, "theirs": 0.5}},
        "details": {"register": {"seed 0": ways}, "resolve": kinds, "size": {"versions": 10_000, "names": 200}},
        "gates": (Gate(figure="show_seconds", value=0.7, bound=0.5, reference="docs/registry.md"),),
        "failures": ("MLflow <is not> installed",),
    }  # fmt: skip
    return BenchResult.model_validate({**fields, **changes})


@pytest.fixture
def pages(tmp_path: Path) -> tuple[str, str]:
    """The two pages of an old and a new run of the preset cpu, and one of smoke."""
    folder = tmp_path / "benchmarks" / "results"
    write_result(result(measures={"resolve_ms": 99.0}, gates=(), failures=()), folder)
    write_result(result(started="2026-02-02T03:04:05+00:00"), folder)
    write_result(result("smoke", gates=(), failures=()), folder)
    paths = tmp_path / "docs" / "benchmarks.md", tmp_path / "docs" / "benchmarks.html"
    write_pages(folder, *paths)
    return paths[0].read_text(encoding="utf-8"), paths[1].read_text(encoding="utf-8")


def test_each_promise_has_a_row_with_its_bound(pages: tuple[str, str]) -> None:
    text = pages[0]
    assert (
        "| registry: seconds of ctune registry show, a new process | 0.7 | at most 0.5 | **not kept** | 2 seeds |"
        in text
    )
    assert (
        "- `ctune bench registry --preset cpu --seeds 0,1`: [registry-cpu-cpu-2.json](../benchmarks/results/registry-cpu-cpu-2.json)"
        in text
    )
    assert "seeds 0, 1; 5 min 41 s, at most 172 MiB; 2026-02-02, parts of 2 commits, abc to def+." in text
    assert "with fewer seeds, or older: [registry-cpu-cpu.json]" in text and "of_none" not in text, (
        "no raw keys"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"what": "speed", "details": {}}, r"expected a whole result of speed in speed-cpu-cpu.json, got one that cannot be told \(\w+Error"),
        ({"what": "sped"}, r"expected a result of speed, .* in .*sped-cpu-cpu.json, got one of 'sped'; take the file away"),
        ({"preset": "huge"}, r"expected a preset of smoke, cpu, gpu in .*registry-huge-cpu.json, got 'huge'; measure again"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_told_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_result(result(**changes), tmp_path)
    with pytest.raises(DataError, match=said):
        write_pages(tmp_path, tmp_path / "b.md", tmp_path / "b.html")
    assert not (tmp_path / "b.md").exists()


def test_what_is_no_document_or_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text("[1, 2]")
    with pytest.raises(
        DataError, match=r"expected the result of a benchmark in .*odd.json, got: a list; measure again"
    ):
        all_results(tmp_path)
    with pytest.raises(UsageError, match=r"expected a folder of results, got the file .*odd.json"):
        all_results(tmp_path / "odd.json")


def test_what_nothing_can_be_said_of_is_not_counted_as_kept(tmp_path: Path) -> None:
    gates = (
        Gate(figure="show_seconds", value=None, bound=0.5, reference="docs", seeds=1),
        Gate(figure="list_ms", value=8.0, bound=150.0, reference="docs"),
    )
    write_result(result(gates=gates), tmp_path)
    write_pages(tmp_path, tmp_path / "b.md", tmp_path / "b.html")
    text, page = (tmp_path / "b.md").read_text(), (tmp_path / "b.html").read_text()
    assert "1 of 2 promises are kept; 1 is not decided." in text and "1 is not decided" in page
    assert "| none | at most 0.5 | not decided | one seed |" in text and "**Promised, not decided:**" in text
    assert "**Promised, not kept:**" not in text and "Promised, not kept" not in page


def test_what_has_to_be_known_of_a_result_is_said(tmp_path: Path) -> None:
    write_result(result(), tmp_path)
    (tmp_path / "notes.toml").write_text('"registry-cpu-cpu.json" = "Measured on a <slow> disk."\n')
    write_pages(tmp_path, tmp_path / "b.md", tmp_path / "b.html")
    assert "  - Measured on a <slow> disk." in (tmp_path / "b.md").read_text()
    assert "Measured on a &lt;slow&gt; disk." in (tmp_path / "b.html").read_text()
    (tmp_path / "notes.toml").write_text('"of-none.json" = "Measured."\n')
    with pytest.raises(
        DataError, match=r"expected a text for a result of .* in .*notes.toml, got 'of-none.json'"
    ):
        write_pages(tmp_path, tmp_path / "b.md", tmp_path / "b.html")


def test_the_line_that_repeats_a_result_says_what_it_needs() -> None:
    def line(what: str, **changes: Any) -> str:
        return Run("x.json", result(what=what, **changes)).command

    assert (
        line("hippocampus")
        == "CTUNE_HIPPOCAMPUS=TASK04_FOLDER ctune bench hippocampus --preset cpu --seeds 0,1"
    )
    assert line("executors", measures={"executor": "ray"}) == "make scale-bench"
    assert line("executors", measures={"executor": "local"}).startswith("ctune bench executors")


def test_one_seed_does_not_hide_three_that_broke_a_bound(tmp_path: Path) -> None:
    kept = (Gate(figure="show_seconds", value=0.4, bound=0.5, reference="docs/registry.md"),)
    write_result(result(seeds=(0, 1, 2)), tmp_path)
    write_result(result(seeds=(0, 1, 2), started="2026-02-02T03:04:05+00:00"), tmp_path)
    write_result(result(seeds=(0,), started="2026-03-02T03:04:05+00:00", gates=kept), tmp_path)
    (section,) = sections(all_results(tmp_path))
    assert [run.file for run in section.runs] == ["registry-cpu-cpu-2.json"], "most seeds, then the newest"
    assert [p.gate.passed for p in section.promises] == [False]


def test_what_is_broken_or_missing_is_said(pages: tuple[str, str]) -> None:
    said = "registry: seconds of ctune registry show, a new process: 0.7, promised at most 0.5 (2 seeds)"
    assert "0 of 1 promises are kept." in pages[0]
    assert pages[0].count(said) == 1 == pages[1].count(said)
    assert pages[0].count("not measured: MLflow <is not> installed") == 1
    assert pages[1].count("Not measured: MLflow &lt;is not&gt; installed") == 1


def test_that_no_accelerator_was_lent_is_said_while_it_is_so(pages: tuple[str, str], tmp_path: Path) -> None:
    assert all(NO_ACCELERATOR in page for page in pages)
    write_result(result("gpu", device="NVIDIA H200"), tmp_path / "gpu")
    write_pages(tmp_path / "gpu", tmp_path / "a.md", tmp_path / "a.html")
    assert NO_ACCELERATOR not in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_the_page_stands_alone(pages: tuple[str, str]) -> None:
    page = pages[1]
    assert page.count("<svg ") == 2 and "Registering a head of 2 MiB" in page
    assert "<script" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]+)', page))
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names)), "drawings that share a page do not share names"
    parser = HTMLParser()
    parser.feed(page)
    parser.close()


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_the_same_values_give_the_same_drawing(plot: Plot) -> None:
    drawn = draw_plot(plot, "p")
    assert drawn == draw_plot(plot, "p") and f'aria-label="{plot.title}"' in drawn
    names = [s.name for s in plot.series] if isinstance(plot, Lines) else [b.name for b in plot.bars]
    assert all(name in drawn for name in names)
    assert ("50 times" in drawn) == isinstance(plot, Bars)


def test_a_band_is_drawn_where_there_is_an_interval() -> None:
    bare = Lines("Dice against seconds", "seconds", "Dice", [Series("ours", LINE.xs, LINE.ys)])
    assert "FillBetween" in draw_plot(PLOTS["lines"], "p") and "FillBetween" not in draw_plot(bare, "p")


def test_every_axis_ends_at_a_number_that_stands_there() -> None:
    drawn = draw_plot(Lines("Dice", "s", "Dice", [Series("ours", [3, 61], [0.62, 0.88])], log_x=True), "p")
    assert all(f">{end}<" in drawn for end in ("2", "100", "0.6", "0.9"))


def test_panels_of_a_figure_have_the_same_axes() -> None:
    panels = [Lines(t, "s", "Dice", [Series("ours", [0, end], [0.7, top])]) for t, end, top in (("a", 60, 0.9), ("b", 72, 0.8))]  # fmt: skip
    first, second = with_common_axes(panels)
    assert isinstance(first, Lines) and isinstance(second, Lines)
    assert first.x_limits == second.x_limits == (0, 72) and first.y_limits == second.y_limits == (0.7, 0.9)


def test_the_line_at_one_says_what_it_is() -> None:
    bars = Bars("Ratios", "times", [Bar("time", 61.0), Bar("target", 61.0, open=True)], log_x=True, mark=1.0, mark_text="1: equal")  # fmt: skip
    assert "1: equal" in draw_plot(bars, "p")


def test_the_committed_pages_are_those_of_the_committed_results(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    folder = root / "benchmarks" / "results"
    found = sections(all_results(folder), read_notes(folder))
    committed = {
        name: (root / "docs" / name).read_text(encoding="utf-8")
        for name in ("benchmarks.md", "benchmarks.html")
    }
    assert committed["benchmarks.md"] == markdown(found, Path("../benchmarks/results"), "benchmarks.html"), (
        "run `make docs`"
    )
    # Its bytes are matplotlib's, too: what is on it is held, not how it is drawn.
    assert [run.file for s in found for run in s.runs if run.file not in committed["benchmarks.html"]] == []


def test_without_results_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected results in .*, found none; measure first"):
        write_pages(tmp_path, tmp_path / "a.md", tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    write_result(result(), tmp_path)
    places = [
        "--results",
        str(tmp_path),
        "--markdown",
        str(tmp_path / "a.md"),
        "--html",
        str(tmp_path / "a.html"),
    ]
    answer = CliRunner().invoke(app, ["bench", "report", *places, "--json"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document["results"] == {"registry": ["registry-cpu-cpu.json"]} and (tmp_path / "a.html").exists()


def speed_seed(pace: float, best: float) -> dict[str, Any]:
    """One seed of the benchmark of speed: full training of two looks, `pace` seconds an epoch, that ends at Dice `best`."""
    curve = [{"epoch": e, "cpu_seconds": e * pace, "seconds": e * pace * 2} for e in (1, 2)]
    looks = [
        {**row, "dice": {"aorta": dice, "stomach": dice}}
        for row, dice in zip(curve, (0.1, best), strict=True)
    ]
    tuned = {"cpu_seconds": 5.0, "seconds": 9.0, "steps": {"aorta": 20, "stomach": 20}}
    dice = {"aorta": {"a": 0.8, "b": None}, "stomach": {"a": 0.6, "b": 0.4}, "liver": {"a": 0.9, "b": 0.9}}
    full = {"steps": 400, "curve": looks, "dice": dice}
    return {
        "full": {"rival": full, "ceiling": full},
        "continual": {
            "pyramid": {**tuned, "dice": dice},
            "text": {**tuned, "cpu_seconds": 1.0, "dice": dice},
        },
    }


def test_speed_is_drawn_over_its_seeds() -> None:
    details = {"seed 0": speed_seed(50.0, 0.7), "seed 1": speed_seed(150.0, 0.5)}
    lines, bars = speed_plots.plots(result(what="speed", details=details))
    assert isinstance(lines, Lines) and isinstance(bars, Bars) and (lines.figure, bars.figure) == (1, 2)
    continual, text, rival, ceiling = lines.series
    assert continual.xs == [5.0] and list(continual.ys) == pytest.approx([0.65]) and text.xs == [1.0]
    low, high = continual.errors[0]
    assert low < 0.65 < high, "95 % over cases and seeds"
    assert rival.xs == [100.0, 200.0] and list(rival.ys) == pytest.approx([0.1, 0.6])
    # Two seeds at .5 and .7: Student's interval with one degree of freedom, as far as Dice goes.
    assert (list(rival.low), list(rival.high)) == ([0.1, 0.0], [0.1, 1.0]) and ceiling.dashed
    assert "Bands: 95 % intervals, of full training over the 2 seeds" in lines.caption
    timed = {n: speed_seed(50.0, 0.7) for n in details}
    for seed in timed.values():  # steps beside the tuning went twice as fast as those that were trained
        arm = seed["continual"]["pyramid"]
        arm["full_step"] = {
            "cpu_seconds": seed["full"]["rival"]["curve"][-1]["cpu_seconds"]
            / seed["full"]["rival"]["steps"]
            / 2
        }
    quick = speed_plots.plots(result(what="speed", details=timed))[0]
    assert isinstance(quick, Lines) and quick.series[2].xs == [25.0, 50.0], "as in the table and the bars"
    assert "at the pace of those that were timed beside each tuning" in quick.caption
    cases, steps, time, target, never = bars.bars
    assert cases.value == pytest.approx(200 / 12), "what the paper calls 16 times faster"
    assert (steps.value, time.value, time.low, time.high) == (10.0, 40.0, 20.0, 60.0)
    assert (target.value, target.text) == (20.0, "20, in 1 of 2 seeds"), "one seed never came there"
    assert never.open and (never.value, never.text) == (60.0, "not reached in 300 s, 1 of 2 seeds")
    on_a_gpu = speed_plots.plots(result(what="speed", details=details, device="NVIDIA H200"))[0]
    assert isinstance(on_a_gpu, Lines) and on_a_gpu.series[0].xs == [9.0], (
        "seconds of the clock on an accelerator"
    )


def seed_of_lengths(pace: float, best: float) -> dict[str, Any]:
    """The same with tunings of one and six epochs beside the one of three."""
    seed = speed_seed(pace, best)
    scale = {"cases": 200, "revised": 12, "tune_epochs": 3}
    other = {"seconds": 9.0, "steps": {"aorta": 7, "stomach": 7}}
    lengths = {
        epochs: {
            **other,
            "cpu_seconds": seconds,
            "dice": {"aorta": {"a": dice, "b": None}, "stomach": {"a": dice, "b": dice}},
        }
        for epochs, seconds, dice in (("1", 2.0, 0.55), ("6", 8.0, 0.75))
    }
    return {**seed, "scale": scale, "lengths": lengths}


def test_tunings_of_other_lengths_are_a_line_and_a_table() -> None:
    details = {"seed 0": seed_of_lengths(50.0, 0.7), "seed 1": seed_of_lengths(150.0, 0.5)}
    found = result(what="speed", details=details)
    lines = speed_plots.plots(found)[0]
    assert isinstance(lines, Lines)
    continual = lines.series[0]
    assert list(continual.xs) == [2.0, 5.0, 8.0] and list(continual.ys) == pytest.approx([0.55, 0.65, 0.75])
    assert set(continual.errors) == {1}, "the bars stand at the one that is compared"
    assert len(continual.low) == 3 and continual.low[1] < 0.65 < continual.high[1]
    assert "whole tunings of 1, 3 and 6 epochs; the one with bars, of 3, is compared" in lines.caption
    *_, costs, lengths = speed_chapter.tables(found).tables
    assert [row[0] for row in lengths.rows] == ["1", "3, compared above", "6"]
    assert lengths.rows[0][1:] == ["14", "2", ".55"]
    row = next(row for row in costs.rows if row[0].startswith("time, to the Dice of full training"))
    assert row[2:] == ["5; 5", "40 (20 to 60), in 2 of 2 seeds"], "full training ends at .65"
    details["seed 1"]["full"]["rival"]["curve"][0]["dice"] = {"aorta": 0.8, "stomach": 0.5}
    *_, costs, _ = speed_chapter.tables(result(what="speed", details=details)).tables
    row = next(row for row in costs.rows if row[0].startswith("time, to the Dice of full training"))
    assert row[3] == "25 (20 to 30), in 2 of 2 seeds", "full training had it at its first look already"
    details["seed 1"] = speed_seed(150.0, 0.5)
    lines = speed_plots.plots(result(what="speed", details=details))[0]
    assert isinstance(lines, Lines) and len(lines.series[0].xs) == 1, "a seed without them: a point"


def test_a_target_that_was_never_reached_is_said_and_drawn_as_an_outline() -> None:
    bars = speed_plots.plots(result(what="speed", details={"seed 0": speed_seed(50.0, 0.5)}))[1]
    assert isinstance(bars, Bars)
    assert [bar.name for bar in bars.bars] == ["cases", "steps", "time, to the end", "time, to the same Dice"]
    assert (
        bars.bars[-1].open and bars.bars[-1].text == "not reached in 100 s" and "An outline" in bars.caption
    )


def test_seeds_may_measure_different_ways_at_different_sizes() -> None:
    whole, part = speed_seed(50.0, 0.7), speed_seed(50.0, 0.7)
    del part["full"]["ceiling"], part["continual"]["text"]
    scaled = {**part, "scale": {"cases": 60, "revised": 12}}
    lines, bars = speed_plots.plots(result(what="speed", details={"seed 0": whole, "seed 1": scaled}))
    assert isinstance(lines, Lines) and isinstance(bars, Bars) and len(lines.series) == 4
    assert bars.bars[0].low == 5.0 and bars.bars[0].high == pytest.approx(200 / 12)


def test_inference_is_drawn_stage_by_stage_in_their_order() -> None:
    pairs = {f"seed {n}": {way: {"seconds": s * n, "peak_mb": 100.0 * n} for way, s in (("ctune", 1.0), ("monai", 4.0))}
             for n in (1, 2, 3)}  # fmt: skip
    stages = {"network": 3.0, "invert": 0.5, "read": 0.1}
    measures = {"ctune_stage_seconds": stages, "monai_stage_seconds": {s: 2 * t for s, t in stages.items()}}
    whole, parts, memory = inference_plots.plots(
        result(what="inference", measures=measures, details={**pairs, "tall": {}})
    )
    assert isinstance(whole, Bars) and isinstance(parts, Bars) and isinstance(memory, Bars)
    assert whole.bars == [Bar("ctune", 2.0, 1.0, 3.0), Bar("plain MONAI", 8.0, 4.0, 12.0)]
    assert [bar.name for bar in parts.bars][:3] == ["read: ctune", "read: plain MONAI", "network: ctune"]
    assert {(bar.name.split(": ")[1], bar.colour) for bar in parts.bars} == {("ctune", 1), ("plain MONAI", 2)}
    assert "3 CTs" in memory.caption and memory.bars[0].value == 200.0


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_draws_it(pages: tuple[str, str], tmp_path: Path) -> None:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--no-first-run",
    ]
    picture, unfolded = tmp_path / "page.png", tmp_path / "page.html"
    unfolded.write_text(pages[1].replace("<details>", "<details open>"), encoding="utf-8")
    subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", "--window-size=1000,3000",
         unfolded.as_uri()],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    from matplotlib.image import imread

    colours = {tuple(c) for c in (imread(picture)[..., :3].reshape(-1, 3)[::53] * 255).astype(int)}
    assert {(0, 114, 178), (209, 139, 0)} <= colours, "the bars of both ways are there"
