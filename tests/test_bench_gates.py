"""Gates of the suites are held to a committed reference, and each of them has a fault that makes it say no."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctune.errors import DataError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SUITES = sorted(BENCHMARKS.glob("test_*.py"))


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def gate_calls(suite: Path) -> Iterator[tuple[str, ast.Call]]:
    """(name of the test, call of ``gate``) of a suite."""
    for test in ast.parse(suite.read_text(encoding="utf-8")).body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for node in ast.walk(test):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "gate":
                    yield test.name, node


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_every_gate_has_a_fault_that_breaks_it(suite: Path) -> None:
    expected = [
        name for f in loaded("worsen").FAULTS.values() if f.suite == suite.name for name in f.expected
    ]
    assert {test for test, _ in gate_calls(suite)} == set(expected)


def test_one_fault_breaks_one_gate() -> None:
    faults = loaded("worsen").FAULTS
    assert all(len(fault.expected) == 1 for fault in faults.values())
    both = {fault.said for fault in faults.values() if "test_dice_stays_where_it_was" in fault.expected}
    assert both == {"dice_new_classes: expected at least", "dice_new_classes: expected at most"}


def test_what_is_held_to_a_reference_has_one() -> None:
    known = json.loads((BENCHMARKS / "reference.json").read_text(encoding="utf-8"))
    for suite in SUITES:
        text = suite.read_text(encoding="utf-8")
        for what in re.findall(r'gate\(\s*"(\w+)"', text):
            assert any(name.startswith(f"{what}.") for name in known), f"make bench-reference: {what}"
    assert all(entry["processor"] and entry["measured"] and entry["value"] >= 0 for entry in known.values())


def test_a_reference_is_written_beside_those_that_are_there(tmp_path: Path) -> None:
    reference: Any = loaded("reference")
    file = tmp_path / "reference.json"
    with pytest.raises(
        DataError, match=r"expected a reference of start\.times in reference\.json, got none; run `make"
    ):
        reference.value_of("start", "times", file)
    assert reference.words_of("start", "times", file) == "none in reference.json"
    reference.write({"start.times": 6.25}, file)
    reference.write({"speed.dice": 0.5}, file)
    assert reference.value_of("start", "times", file) == 6.25
    assert reference.words_of("speed", "dice", file).startswith("0.5 in reference.json (")


SUITE = """
def test_ratio(gate): gate("toy", "ratio", {value}, share=0.75, at_most=False)
def test_band(gate): gate("toy", "dice", {dice}, band=0.1)
def test_promise(gate): gate("toy", "change", 0.0, 0.0)
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name in ("conftest.py", "reference.py"):
        (tmp_path / name).write_text((BENCHMARKS / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def held(suite: Path, value: float, dice: float, *options: str) -> subprocess.CompletedProcess[str]:
    (suite / "test_toy.py").write_text(SUITE.format(value=value, dice=dice), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        ".",
        *options,
    ]
    return subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)


def test_figures_are_held_to_what_the_suite_wrote_itself(suite: Path) -> None:
    assert "run `make bench-reference`" in held(suite, 2.0, 0.5).stdout
    assert held(suite, 2.0, 0.5, "--write-reference").returncode == 0
    assert set(json.loads((suite / "reference.json").read_text())) == {"toy.ratio", "toy.dice", "toy.change"}
    assert held(suite, 1.6, 0.41).returncode == 0
    worse = held(suite, 1.4, 0.61)
    assert worse.returncode == 3
    assert "ratio: expected at least 1.5, got 1.4; reference: 2 in reference.json (" in worse.stdout
    assert "dice: expected at most 0.6, got 0.61; reference: 0.5 in reference.json" in worse.stdout
    assert "dice: expected at least 0.4, got 0.39" in held(suite, 2.0, 0.39).stdout


def test_a_neighbour_in_a_few_batches_does_not_break_the_registrys_gate() -> None:
    registry: Any = loaded("test_registry")
    quiet, loud = [1.5] * 6, [4.0] * 6
    assert registry.lower_quartile(quiet + loud) == 1.5
    assert registry.lower_quartile([4.5] * 12) == 4.5, "a fault is in all of them"
