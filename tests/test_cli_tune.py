"""``ctune tune``: every strategy by options, the warning, and exit code 3 for a head that got worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import GRID, config, project, volume
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.data.nifti import write_volume
from ctune.foundation import train_model
from ctune.project import open_project
from ctune.types import Source, Split

runner = CliRunner()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two validation cases; the liver is revised to something that is not there, the aorta as it is."""
    plain = config().model_dump(mode="json")
    plain["train"] |= {"epochs": 15}
    plain["tune"] |= {"epochs": 4, "validate_every": 2, "patch_size": (16, 16, 16)}
    folder = tmp_path_factory.mktemp("cli_tune")
    made, truth = project(folder, pool=2, test=0, train=plain["train"], tune=plain["tune"])
    for index in (20, 21):
        image, (hu, masks) = truth / f"case_{index}" / "ct.nii.gz", volume(index)
        write_volume(image, hu, GRID)
        made.pool.add_case(
            f"case_{index}", image, Split.VALIDATION, {n: masks[n] for n in ("liver", "spleen")}
        )
    train_model(made, "small", device=torch.device("cpu"))
    wrong = np.zeros(GRID.shape, np.uint8)
    wrong[10:14, 10:15, 2:9] = 1
    for name, mask in (("liver", wrong), ("aorta", volume(0)[1]["aorta"])):
        made.pool.annotate("case_0", name, mask, source=Source.REVISED, author="dr. a", round=1)
    return made.root


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home, tmp_path / "project"))


def tune(home: Path, *words: str) -> Result:
    return runner.invoke(app, ["tune", "small", *words, "--project", str(home)])


def test_a_new_class_is_tuned_and_the_rest_did_not_move(copy: Path) -> None:
    answer = tune(copy, "--classes", "aorta", "--json")
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.stdout)
    assert (
        said["registered"] == ["aorta"] and said["kept"] == [] and said["unrevised_max_abs_logit_change"] == 0
    )
    assert said["validation"] == {"aorta": None}, "no validation case annotates it"


def test_what_people_read(copy: Path) -> None:
    answer = tune(copy, "--classes", "aorta")
    first, second, third = answer.stdout.splitlines()
    assert first.startswith("sha256:") and "new heads of aorta" in first
    assert second.startswith(
        "no validation case annotates aorta: the last weights were kept; keep cases for it with"
    )
    assert third.startswith("unrevised classes: logits changed by 0 on ")
    assert answer.stderr == ""


def test_every_strategy_is_an_option(copy: Path) -> None:
    words = [
        "--data",
        "full",
        "--trainable",
        "all",
        "--head",
        "pyramid",
        "--from-scratch",
        "--epochs",
        "2",
        "--force",
    ]
    answer = tune(copy, "--classes", "aorta,liver", "--json", *words)
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.stdout)
    assert sorted(said["registered"]) == ["aorta", "liver", "spleen"] and len(said["losses"]["all"]) == 2
    registry = open_project(copy).open_registry()
    heads = registry.load("small").heads
    assert {n: h.head_kind for n, h in heads.items()} == dict.fromkeys(
        ("aorta", "liver", "spleen"), "pyramid"
    )
    assert heads["spleen"].settings["start"] == "scratch" and heads["spleen"].settings["data"] == "full"


def test_a_head_that_got_worse_ends_with_exit_code_3(copy: Path) -> None:
    answer = tune(copy, "--classes", "liver,aorta", "--data", "revised-only", "--json")
    assert answer.exit_code == 3, answer.output
    said = json.loads(answer.stdout)
    assert said["kept"] == ["liver"] and said["registered"] == ["aorta"]
    assert said["changes"]["liver"]["cases"] == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: liver: expected a head no worse than the one it replaces, got Dice 0.")
    assert "on 2 cases kept for validation" in line and line.endswith("register the new one with --force")
    forced = tune(copy, "--classes", "liver", "--data", "revised-only", "--force")
    assert forced.exit_code == 0 and "error" not in forced.stderr


def test_without_looks_the_old_and_the_new_head_are_compared_at_the_end(copy: Path) -> None:
    settings = copy / "ctune.toml"
    text = settings.read_text()
    assert text.count("validate_every = 2") == 1
    settings.write_text(text.replace("validate_every = 2", "validate_every = 0"))
    answer = tune(copy, "--classes", "liver,aorta", "--data", "revised-only")
    assert answer.exit_code == 3, answer.output
    assert answer.stderr.startswith("error: liver: expected a head no worse than the one it replaces")
    said = answer.stdout.splitlines()
    assert said[1].startswith("liver: Dice ") and said[1].endswith(
        "after epoch 4; not looked at while it trained (validate_every = 0)"
    )
    assert said[2].startswith("no validation case annotates aorta")


def test_a_refused_version_names_all_that_went_with_it(copy: Path) -> None:
    words = ["--data", "revised-only", "--trainable", "all", "--epochs", "12"]
    answer = tune(copy, "--classes", "liver,aorta", *words, "--json")
    assert answer.exit_code == 3, answer.output
    said = json.loads(answer.stdout)
    assert said["registered"] == [] and said["unchecked"] == []
    *_, last = answer.stderr.splitlines()
    assert last.startswith("error: the whole version was refused, with ") and "aorta (not compared)" in last
    assert "spleen (" in last or "error: spleen: expected a head" in answer.stderr


def test_what_was_forced_stands_in_the_record(copy: Path) -> None:
    answer = tune(copy, "--classes", "liver", "--data", "revised-only", "--force")
    assert answer.exit_code == 0, answer.output
    note = open_project(copy).open_registry().load("small").record.note
    assert note.startswith("tuned liver; forced: liver worse (Dice 0.")


def test_teaching_background_is_warned_of_loudly(copy: Path) -> None:
    words = ["--data", "revised-only", "--trainable", "all", "--unlabelled", "background", "--force"]
    answer = tune(copy, "--classes", "aorta", *words)
    assert answer.exit_code == 0
    (line,) = answer.stderr.splitlines()
    assert line.startswith("WARNING: classes that nobody annotated are taught as background")
    log = runner.invoke(app, ["registry", "list", "--project", str(copy)], env={"COLUMNS": "400"})
    assert "WARNING" in log.stdout and "taught as background" in log.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--data", "some"],
            "command line: tune.data: Input should be 'hybrid', 'revised-only' or 'full'; got 'some'",
        ),
        (
            ["--head", "round"],
            "command line: tune.head: Input should be 'keep', 'text' or 'pyramid'; got 'round'",
        ),
        (
            ["--unlabelled", "x"],
            "command line: tune.unlabelled: Input should be 'masked' or 'background'; got 'x'",
        ),
    ],
)
def test_a_strategy_that_is_none_is_a_usage_error(home: Path, words: list[str], said: str) -> None:
    answer = tune(home, "--classes", "aorta", *words)
    assert answer.exit_code == 2 and answer.stderr == f"error: {said}\n"


def test_the_settings_file_stays(copy: Path) -> None:
    before = (copy / "ctune.toml").read_bytes()
    tune(copy, "--classes", "aorta", "--data", "full", "--epochs", "1")
    assert (copy / "ctune.toml").read_bytes() == before


def test_earlier_cases_train_again_with_reuse(copy: Path) -> None:
    few, more = (
        json.loads(tune(copy, "--classes", "liver", "--epochs", "1", "--force", "--json", *words).stdout)
        for words in ((), ("--reuse", "1"))
    )
    assert (few["steps"]["liver"], more["steps"]["liver"]) == (1, 2)
    assert (few["reused"], more["reused"]) == ([], ["case_1"])
    assert tune(copy, "--classes", "liver", "--reuse", "2").exit_code == 2
