"""``ctune init``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from ctune.config import NINE_ORGANS, load

runner = CliRunner()


def test_init_makes_a_project_of_the_paper(tmp_path: Path) -> None:
    answer = runner.invoke(app, ["init", str(tmp_path / "p")])
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert (
        f"project project in {tmp_path / 'p'}" in answer.stdout and "next: `ctune import SRC" in answer.stdout
    )
    config = load(tmp_path / "p" / "ctune.toml")
    assert config.classes == NINE_ORGANS and config.base.architecture == "swin_unetr"


def test_init_with_a_preset_and_classes_as_json(tmp_path: Path) -> None:
    options = ["--preset", "phantom", "--classes", "liver, IVC", "--name", "mine", "--json"]
    answer = runner.invoke(app, ["init", str(tmp_path / "p"), *options])
    assert json.loads(answer.stdout) == {
        "project": str(tmp_path / "p"),
        "name": "mine",
        "settings": str(tmp_path / "p" / "ctune.toml"),
        "classes": ["liver", "postcava"],
    }
    config = load(tmp_path / "p" / "ctune.toml")
    assert (config.classes, config.name, config.base.architecture) == (
        ("liver", "postcava"),
        "mine",
        "unet_small",
    )


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--preset", "xray"], 2, "error: expected one of the presets ct, phantom, mr; got 'xray'"),
        (
            ["--classes", "liver,LIVER"],
            2,
            "error: expected every class once, got 'LIVER' (liver) twice; remove one",
        ),
        (
            ["--classes", "li/ver!"],
            2,
            "error: expected a class name of 1 to 64 letters, digits and underscores, got",
        ),
    ],
)
def test_what_init_refuses(tmp_path: Path, options: list[str], code: int, line: str) -> None:
    answer = runner.invoke(app, ["init", str(tmp_path / "p"), *options])
    assert answer.exit_code == code and answer.stderr.startswith(line) and answer.stderr.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_init_twice(tmp_path: Path) -> None:
    assert runner.invoke(app, ["init", str(tmp_path)]).exit_code == 0
    answer = runner.invoke(app, ["init", str(tmp_path)])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: expected a folder without a project, found ")
