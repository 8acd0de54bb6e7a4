"""``ctune train`` says what it kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_network import GRID, config, project, volume
from typer.testing import CliRunner

from cli.main import app
from ctune.data.nifti import write_volume
from ctune.types import Split


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_validation_cases_said(tmp_path: Path, as_json: bool) -> None:
    plain = config().model_dump(mode="json")["train"] | {"epochs": 6, "validate_every": 2}
    made, truth = project(tmp_path, pool=2, test=0, train=plain)
    hu, masks = volume(20)
    write_volume(truth / "held.nii.gz", hu, GRID)
    made.pool.add_case("held", truth / "held.nii.gz", Split.VALIDATION, {"liver": masks["liver"]})
    words = ["train", "--name", "small", "--project", str(made.root), *(["--json"] if as_json else [])]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    if as_json:
        said = json.loads(answer.stdout)["validation"]
        assert said["spleen"] is None and said["liver"]["cases"] == 1 and said["liver"]["epoch"] in (2, 4, 6)
        assert said["liver"]["low"] == said["liver"]["dice"] == said["liver"]["high"], "one case, no spread"
    else:
        first, *rest = answer.stdout.splitlines()
        assert first.startswith("small: sha256:")
        assert rest[0].startswith("liver: Dice 0.") and "on 1 validation cases, after epoch" in rest[0]
        assert rest[1].startswith(
            "no validation case annotates spleen: the last weights were kept; keep cases"
        )
