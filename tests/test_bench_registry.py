"""The registry's benchmark on six versions: what it fills, what it measures, what it says where MLflow is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctune.bench.registry import protocol as bench
from ctune.bench.registry.models import ALIAS, fill, model_name, weights
from ctune.bench.registry.protocol import BOUNDS, SIZES, Size, gates, mlflow, registering, spread
from ctune.types import Progress, silent
from registry import HeadRecord, Registry
from registry.weights import check_weights

TINY = Size(versions=6, names=2, looks=20, writes=2, processes=1)


def test_versions_of_a_name_differ_in_one_head_each(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    fill(registry, 6, 2, 0, silent)
    assert [str(v) for v in registry.versions()] == [
        f"{model_name(n)}:{v}" for n in (0, 1) for v in (1, 2, 3)
    ]
    models = [registry.load(f"model-0000:{v}").record for v in (1, 2, 3)]
    assert [len(model.heads) for model in models] == [1, 2, 3]
    assert models[2].parents == (registry.resolve("model-0000:2"),)
    assert len({r.digest for r in registry.catalog.records("head")}) == 6
    assert registry.resolve(f"model-0001@{ALIAS}") == registry.resolve("model-0001:1")
    assert registry.verify().clean


def test_a_filling_that_was_cut_off_goes_on_to_the_same(tmp_path: Path) -> None:
    whole = fill(Registry.open(tmp_path / "whole"), 6, 2, 0, silent)

    def cut(step: Progress) -> None:
        raise KeyboardInterrupt

    registry = Registry.open(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        fill(registry, 6, 2, 0, cut)
    assert len(registry.versions()) == 3
    assert fill(registry, 6, 2, 0, silent) == whole
    within = Registry.open(tmp_path / "within a name")
    fill(within, 4, 2, 0, silent)
    assert fill(within, 6, 2, 0, silent) == whole
    assert fill(Registry.open(tmp_path / "other"), 6, 2, 1, silent) != whole


def test_the_heads_are_real_weights_and_depend_on_the_seed_alone() -> None:
    data = weights("head 0 1", 2**21)
    check_weights([data], len(data), "a head")
    assert weights("head 0 1", 2**21) == data != weights("head 1 1", 2**21)


def test_the_same_bytes_are_written_plainly_and_registered(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    found, digest = registering(registry, tmp_path, None, TINY, seed=0)
    assert found["plain"]["n"] == found["ctune"]["n"] == TINY.writes, "the first of each is a warm-up"
    assert found["ratio_to_plain_write"] == pytest.approx(
        found["ctune"]["median_ms"] / found["plain"]["median_ms"]
    )
    heads = [registry.record_of(row.digest) for row in registry.catalog.records("head")]
    assert [len(registry.get(h.weights)) > 2**21 for h in heads if isinstance(h, HeadRecord)] == [True] * 3
    assert not (tmp_path / "plain.safetensors").exists() and len(digest) == 64


def test_without_mlflow_its_figures_are_left_out_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "is_here", lambda: False)
    monkeypatch.setitem(bench.SIZES, "smoke", TINY)
    measured = bench.run("smoke", [0, 1], tmp_path, silent)
    assert set(measured.measures) == {
        "resolve_ms",
        "list_ms",
        "show_seconds",
        "register_ratio_to_plain_write",
    }
    (failure,) = measured.failures
    assert failure.startswith(
        "MLflow is not installed: mlflow_register_ratio and mlflow_resolve_ratio are left out"
    )
    assert set(measured.data) == {"versions", "heads, seed 0", "heads, seed 1"}
    assert set(measured.details["register"]) == {"seed 0", "seed 1"}
    assert measured.details["resolve"]["all"]["n"] == 20 and measured.details["show"]["n"] == 1


def test_mlflow_registers_and_resolves_the_same(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow comes with the extra bench-mlflow")
    rival = mlflow.Rival(tmp_path)
    rival.fill(6, 2, silent)
    rival.fill(6, 2, silent)
    assert rival.resolve("model-0001").endswith("/model-0001-0"), "filled twice, registered once"
    for way, register in rival.registrations("model-0000", "head", b"weights").items():
        register()
        newest = rival._client.search_model_versions("name='model-0000'", max_results=1)[0]
        assert newest.version == {"mlflow_lean": 4, "mlflow_guided": 5}[way]
        kept = Path(newest.source.removeprefix("file://")) / "head.safetensors"
        assert kept.read_bytes() == b"weights"


def test_gates_ask_seconds_of_the_full_size_alone() -> None:
    measures = {**dict.fromkeys(BOUNDS, 1.0), "register_ratio_to_plain_write": 3.5}
    assert [g.figure for g in gates(measures, "smoke") if not g.passed] == ["register_ratio_to_plain_write"]
    assert {g.figure for g in gates(measures, "cpu")} == set(BOUNDS)
    assert [g.figure for g in gates(measures, "cpu") if not g.passed] == [
        "show_seconds",
        "register_ratio_to_plain_write",
    ]
    assert (SIZES["cpu"].versions, SIZES["cpu"].names) == (10_000, 200), "what the bounds are promised for"


def test_spread() -> None:
    found = spread(range(1, 101))
    assert found == {"median_ms": 50.5, "p95_ms": 95.05, "max_ms": 100, "n": 100}
