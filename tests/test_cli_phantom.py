"""``ctune phantom`` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app

runner = CliRunner()


def test_phantom_writes_a_cohort_and_says_so(tmp_path: Path) -> None:
    answer = runner.invoke(app, ["phantom", str(tmp_path / "cohort"), "--cases", "2", "--seed", "3"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith(f"2 cases in {tmp_path / 'cohort'}, ")
    assert len(list(tmp_path.glob("cohort/phantom_000?/segmentations/*.nii.gz"))) == 18


def test_phantom_as_json_is_one_document(tmp_path: Path) -> None:
    answer = runner.invoke(app, ["phantom", str(tmp_path), "--cases", "1", "--json"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document["cases"] == ["phantom_0000"]
    assert (document["seed"], document["size"], document["directory"]) == (0, "small", str(tmp_path))


def test_an_unknown_size_is_a_usage_error(tmp_path: Path) -> None:
    answer = runner.invoke(app, ["phantom", str(tmp_path / "new"), "--size", "huge"])
    assert answer.exit_code == 2
    assert "error: expected a size of small, medium, ct; got 'huge'" in " ".join(answer.stderr.split())
    assert not (tmp_path / "new").exists()


def test_another_seed_in_the_same_folder_is_a_usage_error(tmp_path: Path) -> None:
    assert runner.invoke(app, ["phantom", str(tmp_path), "--cases", "1"]).exit_code == 0
    answer = runner.invoke(app, ["phantom", str(tmp_path), "--cases", "1", "--seed", "1", "--json"])
    assert answer.exit_code == 2
    assert "choose another folder" in json.loads(answer.stdout)["error"]["message"]


def test_no_cases_is_a_usage_error(tmp_path: Path) -> None:
    assert runner.invoke(app, ["phantom", str(tmp_path), "--cases", "0"]).exit_code == 2
