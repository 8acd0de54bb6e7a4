"""Classes that go, get another name, or become two: what is new, what is the same bits, and what the record says."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SIDE, project, volume
from typer.testing import CliRunner

from cli.main import app
from ctune.cohort import hybrid_of
from ctune.compositions import load_model
from ctune.config import from_mapping
from ctune.errors import ModelError, UnknownClassError, UsageError
from ctune.foundation import annotated_classes, retune_model, train_model
from ctune.model.heads import TextHead
from ctune.model.network import Network
from ctune.project import Project, adjusted
from ctune.recompose import remove, rename, split
from ctune.strategy import revised_cases
from ctune.types import Source
from registry import HeadRecord, ModelRecord, Registry

CPU = torch.device("cpu")
PROBE = torch.rand((1, 1, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """liver and spleen as text heads, aorta as a pyramid head."""
    made, _ = project(tmp_path_factory.mktemp("recompose"), pool=2, test=0)
    train_model(made, "small", device=CPU)
    made.pool.annotate(
        "case_0", "aorta", volume(0)[1]["aorta"], source=Source.REVISED, author="dr. a", round=1
    )
    retune_model(adjusted(made, "tune", {"epochs": 1}), "small", ["aorta"], device=CPU)
    return made


@pytest.fixture
def copy(home: Project, tmp_path: Path) -> Project:
    shutil.copytree(home.root, tmp_path / "project")
    return Project(tmp_path / "project", home.config)


@pytest.fixture
def registry(copy: Project) -> Registry:
    return copy.open_registry()


def model(registry: Registry, reference: str = "small") -> ModelRecord:
    return registry.load(reference).record


def logits(network: Network, name: str) -> torch.Tensor:
    with torch.inference_mode():
        return network(PROBE, [name])


def net(registry: Registry, reference: str) -> Network:
    return load_model(registry, reference, CPU).network


def head(registry: Registry, name: str) -> HeadRecord:
    return registry.load("small").heads[name]


def test_a_class_goes_and_the_others_are_the_same_heads(registry: Registry) -> None:
    before = model(registry)
    made = remove(registry, "small", ["Spleen"], name="small")
    after = model(registry)
    assert made.version == 3 and after.parents == (registry.resolve("small:2"),)
    assert (
        after.heads == {n: h for n, h in before.heads.items() if n != "spleen"} and after.base == before.base
    )
    assert after.note == "removed spleen" and set(net(registry, "small").classes) == {"liver", "aorta"}
    assert "spleen" in registry.load("small:2").heads, "the version before has it still"


def test_at_least_one_class_stays(registry: Registry) -> None:
    with pytest.raises(UsageError, match="expected at least one class to be left of small, got all of"):
        remove(registry, "small", ["liver", "spleen", "aorta"], name="small")


def test_a_class_that_is_not_there_is_named_with_the_nearest(registry: Registry) -> None:
    said = "expected one of the model's classes .*; got 'livr'; did you mean 'liver'?"
    for change in (
        lambda: remove(registry, "small", ["livr"], name="small"),
        lambda: rename(registry, "small", "livr", "x", name="small"),
        lambda: split(registry, "small", "livr", ["x", "y"], name="small"),
    ):
        with pytest.raises(UnknownClassError, match=said):
            change()
    assert len(registry.versions("small")) == 2


@pytest.mark.parametrize("old", ["liver", "aorta"])
def test_another_name_and_the_same_bits(registry: Registry, old: str) -> None:
    before, was = model(registry), head(registry, old)
    rename(registry, "small", old, "Great Vessel", name="small")
    after, now = model(registry), head(registry, "great_vessel")
    assert torch.equal(
        logits(net(registry, "small:2"), old), logits(net(registry, "small:3"), "great_vessel")
    )
    assert net(registry, "small").head("great_vessel").base_digest == registry.load("small").base.fingerprint
    assert now.fingerprint == was.fingerprint and now.parent == before.heads[old]
    assert now.settings == {**was.settings, "renamed_from": old} and now.annotations == was.annotations
    assert {n: h for n, h in after.heads.items() if n != "great_vessel"} == {
        n: h for n, h in before.heads.items() if n != old
    }
    assert after.note == f"renamed {old} to great_vessel" and registry.verify().clean


def test_a_text_head_keeps_the_vector_of_its_former_name(registry: Registry) -> None:
    rename(registry, "small", "liver", "hepar", name="small")
    old, new = net(registry, "small:2").head("liver"), net(registry, "small:3").head("hepar")
    assert isinstance(old, TextHead) and isinstance(new, TextHead) and torch.equal(old.text, new.text)


def test_a_name_that_is_taken_or_impossible_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="expected a name that no class of the model has, got 'spleen'"):
        rename(registry, "small", "liver", "spleen", name="small")
    with pytest.raises(ModelError, match="expected another name for the class 'keys'"):
        rename(registry, "small", "liver", "keys", name="small")
    assert len(registry.versions("small")) == 2


@pytest.mark.parametrize("keep", [False, True])
def test_a_class_becomes_two_that_begin_as_it_was(registry: Registry, keep: bool) -> None:
    before = model(registry)
    split(registry, "small", "aorta", ["aorta_thoracic", "aorta_abdominal"], keep=keep, name="small")
    after, whole = model(registry), logits(net(registry, "small:2"), "aorta")
    assert ("aorta" in after.heads) == keep and after.note.endswith(", aorta kept") == keep
    for name in ("aorta_thoracic", "aorta_abdominal"):
        assert torch.equal(logits(net(registry, "small:3"), name), whole)
        assert head(registry, name).settings["split_from"] == "aorta"
        assert head(registry, name).parent == before.heads["aorta"]
    assert {n: after.heads[n] for n in ("liver", "spleen")} == {
        n: before.heads[n] for n in ("liver", "spleen")
    }


def test_a_split_needs_two_names(registry: Registry) -> None:
    for names in (["one"], ["one", "One"]):
        with pytest.raises(UsageError, match="expected two or more different classes to split aorta into"):
            split(registry, "small", "aorta", names, name="small")


def test_what_was_split_is_tuned_on_its_own_annotations_from_the_old_head(copy: Project) -> None:
    registry = copy.open_registry()
    split(registry, "small", "aorta", ["aorta_thoracic", "aorta_abdominal"], name="small")
    mask = volume(0)[1]["aorta"]
    mask[:, :, 8:] = 0
    copy.pool.annotate("case_0", "aorta_thoracic", mask, source=Source.REVISED, author="dr. a", round=2)
    before = model(registry)
    _, done = retune_model(adjusted(copy, "tune", {"epochs": 2}), "small", ["aorta_thoracic"], device=CPU)
    after = model(registry)
    assert done.proof is not None and done.proof.max_abs_change["aorta_abdominal"] == 0
    assert after.heads["aorta_thoracic"] != before.heads["aorta_thoracic"]
    assert after.heads["aorta_abdominal"] == before.heads["aorta_abdominal"]
    assert head(registry, "aorta_thoracic").parent == before.heads["aorta_thoracic"]


def test_with_an_alias_annotations_count_under_the_new_name(copy: Project) -> None:
    settings = copy.config.model_dump(mode="json") | {"aliases": {"aorta": "great_vessel"}}
    renamed = Project(copy.root, from_mapping(settings, "here"))
    assert revised_cases(copy, ["great_vessel"]) == [] and revised_cases(renamed, ["great_vessel"]) == [
        "case_0"
    ]
    assert annotated_classes(renamed) == {"liver", "spleen", "great_vessel"}
    merged = hybrid_of(renamed, "case_0")
    assert np.array_equal(merged.masks["great_vessel"], volume(0)[1]["aorta"]) and "aorta" not in merged.masks
    rename(copy.open_registry(), "small", "aorta", "great_vessel", name="small")
    _, done = retune_model(adjusted(renamed, "tune", {"epochs": 1}), "small", ["great_vessel"], device=CPU)
    assert [r.class_name for r in done.annotations["great_vessel"]] == ["aorta"], (
        "the record says what it was called"
    )


# The command ----------------------------------------------------------------------------------------------------------


def run(home: Project, *words: str) -> tuple[int, str, str]:
    answer = CliRunner().invoke(app, ["classes", *words, "--project", str(home.root)])
    return answer.exit_code, answer.stdout, answer.stderr


def test_each_change_on_the_command_line(copy: Project) -> None:
    code, out, _ = run(copy, "rename", "small", "liver", "hepar", "--json")
    assert code == 0 and json.loads(out)["classes"] == ["aorta", "hepar", "spleen"]
    code, out, _ = run(copy, "rename", "small", "hepar", "Liver", "--note", "back to English")
    assert code == 0 and out.splitlines()[-1] == (
        'next: for its annotations, put hepar = "liver" under [aliases] in ctune.toml'
    )
    assert "small:4" in out and "back to English" in out
    code, out, _ = run(
        copy, "split", "small", "aorta", "aorta_a", "aorta_b", "--keep", "--name", "other", "--json"
    )
    said = json.loads(out)
    assert code == 0 and (said["name"], said["version"]) == ("other", 1)
    assert said["classes"] == ["aorta", "aorta_a", "aorta_b", "liver", "spleen"]
    code, out, _ = run(copy, "remove", "other", "aorta", "spleen")
    assert code == 0 and "classes: aorta_a, aorta_b, liver" in out and "removed aorta, spleen" in out


def test_the_line_after_a_split_runs_as_it_is_printed(copy: Project) -> None:
    digest = copy.open_registry().resolve("small")
    for model, name in (("small:2", "small"), (f"sha256:{digest}", "other")):
        code, out, _ = run(copy, "split", model, "aorta", "aorta_a", "aorta_b", "--name", name)
        line = out.splitlines()[-1]
        words = shlex.split(line.split("`")[1])
        assert code == 0 and words[:2] == ["ctune", "tune"] and words[2].startswith(f"{name}:")
        for index, part in enumerate(("aorta_a", "aorta_b")):
            mask = volume(0)[1]["aorta"].copy()
            mask[:, :, 8 * index : 8 * index + 8] = 0
            if not copy.pool.annotations("case_0", part):
                copy.pool.annotate("case_0", part, mask, source=Source.REVISED, author="dr. a", round=1)
        answer = CliRunner().invoke(app, [*words[1:], "--epochs", "1", "--project", str(copy.root)])
        assert answer.exit_code == 0, answer.output
        record = copy.open_registry().load(name).record
        assert {"aorta_a", "aorta_b"} < set(record.heads) and "aorta" not in record.heads


def test_mistakes_are_usage_errors(copy: Project) -> None:
    code, out, err = run(copy, "remove", "small", "livr", "--json")
    assert (
        code == 2
        and "did you mean 'liver'?" in err
        and json.loads(out)["error"]["type"] == "UnknownClassError"
    )
    assert run(copy, "split", "small", "aorta", "one")[0] == 2
    digest = copy.open_registry().resolve("small")
    code, _, err = run(copy, "remove", f"sha256:{digest}", "liver")
    assert code == 2 and "give --name" in err
