"""What people do wrong with ``ctune tune`` and ``ctune train``, and what happens beside them: each is said in one line."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_network import GRID, config, network, prepared, project, volume
from typer.testing import CliRunner

from cli.main import app
from ctune import meanwhile as meanwhile_of
from ctune import recompose
from ctune.foundation import retune_model, train_model
from ctune.model.features import FeatureCache, KeptFeatures, PassedFeatures, View
from ctune.project import Project, adjusted, open_project
from ctune.tune import tune_heads
from ctune.types import Progress, Source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of liver and spleen; the aorta is revised in one case alone."""
    plain = config().model_dump(mode="json")
    plain["tune"] |= {"patch_size": (16, 16, 16), "validate_every": 0}
    made, _ = project(tmp_path_factory.mktemp("mistakes"), pool=2, test=0, tune=plain["tune"])
    train_model(made, "small", ["liver", "spleen"], device=CPU)
    revise(made, "case_0", "aorta", volume(0)[1]["aorta"])
    return made.root


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Project:
    return open_project(Path(shutil.copytree(home, tmp_path / "project")))


def revise(made: Project, case_id: str, name: str, mask: np.ndarray) -> None:
    made.pool.annotate(case_id, name, mask, source=Source.REVISED, author="dr. a", round=1)


def said(home: Path, *words: str) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    answer = CliRunner().invoke(app, [*words, "--project", str(home)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), repr(answer.exception)
    return answer.exit_code, answer.stderr.strip()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("tune", "small", "--classes", ""), 2, "expected at least one class to tune, got none; name some with --classes"),
        (("tune", "small", "--classes", "arota"), 1, "got none; did you mean aorta? or revise one first"),
        (("tune", "small", "--classes", "aorta,aorta"), 2, "expected every class once, got 'aorta' (aorta) twice"),
        (("tune", "small", "--classes", "aorta", "--name", "../x"), 2, "got '../x': '/' and '\\' would make it a path"),
        (("tune", "smal", "--classes", "aorta"), 1, "expected a registered model, got 'smal'"),
        (("train", "--classes", "livr"), 1, "got none of livr; did you mean liver? or import cases with their masks first"),
        (("train", "--name", "a/b"), 2, "got 'a/b': '/' and '\\' would make it a path"),
    ],
)  # fmt: skip
def test_names(home: Path, words: tuple[str, ...], code: int, line: str) -> None:
    got, text = said(home, *words)
    assert got == code and text.startswith("error: ") and line in text and "\n" not in text


def test_a_name_is_refused_before_the_training_not_after(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctune.foundation.train", lambda *_, **__: pytest.fail("it trained first"))
    monkeypatch.setattr("ctune.foundation.tune_model", lambda *_, **__: pytest.fail("it tuned first"))
    assert (
        said(home, "train", "--name", "A")[0]
        == said(home, "tune", "small", "--classes", "aorta", "--name", "A")[0]
        == 2
    )


def test_a_class_whose_every_mask_is_empty_teaches_nothing(copy: Project) -> None:
    revise(copy, "case_1", "stomach", np.zeros(GRID.shape, np.uint8))
    line = (
        "stomach: expected a voxel of it in at least one case, got 1 annotated cases that are all empty on the network's "
        "grid; annotate one where it is, or leave the class out"
    )
    assert said(copy.root, "tune", "small", "--classes", "stomach") == (1, f"error: {line}")
    copy.pool.annotate(
        "case_1", "pancreas", np.zeros(GRID.shape, np.uint8), source=Source.ORIGINAL, author="dr. a"
    )
    code, text = said(copy.root, "train", "--name", "new", "--classes", "liver,pancreas")
    assert code == 1 and text.startswith("error: pancreas: expected a voxel of it")


def test_a_head_that_is_there_may_learn_that_it_sees_too_much(copy: Project) -> None:
    revise(copy, "case_1", "spleen", np.zeros(GRID.shape, np.uint8))
    assert said(copy.root, "tune", "small", "--classes", "spleen")[0] == 0


def test_a_mask_that_judges_nothing_is_no_annotation(copy: Project) -> None:
    revise(copy, "case_1", "stomach", np.full(GRID.shape, 255, np.uint8))
    code, text = said(copy.root, "tune", "small", "--classes", "stomach", "--trainable", "all")
    assert code == 1 and "expected at least one case with an annotation of stomach, got none" in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--data", "full", "--reuse", "0.5"), "reuse = 0.5 does nothing with data = full: every case that people"),
        (("--reuse", "0.1"), "reuse = 0.1 found no case to train again: people annotated what trains in no pool case"),
        (("--from-scratch",), "start = scratch with trainable = heads: the encoder stays at random weights"),
        (("--from-scratch", "--trainable", "heads+decoder"), "start = scratch with trainable = heads+decoder: the"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_together_are_said(
    copy: Project, words: tuple[str, ...], line: str
) -> None:
    code, text = said(copy.root, "tune", "small", "--classes", "aorta", *words)
    assert code == 0 and text.startswith(f"note: {line}") and "\n" not in text


def test_classes_that_moved_unchecked_are_named(copy: Project) -> None:
    """There is no validation case: nothing says what became of liver and spleen."""
    code, text = said(copy.root, "tune", "small", "--classes", "aorta", "--trainable", "all")
    assert code == 0 and text.startswith(
        "note: liver, spleen moved with the base, and no validation case annotates them: nobody compared old and new; keep"
    )


def meanwhile(made: Project, do: Callable[[], object]) -> Callable[[Progress], None]:
    """A listener that does something once, while the aorta is tuned."""
    done: list[object] = []

    def tell(step: Progress) -> None:
        if not done and step.stage == "tune aorta":
            done.append(None)
            do()

    return tell


def heads_of(made: Project, reference: str) -> dict[str, str]:
    record = made.open_registry().load(reference).record
    return dict(record.heads)


def test_two_tunings_at_once_end_in_one_model_with_both_heads(copy: Project) -> None:
    revise(copy, "case_1", "stomach", volume(1)[1]["aorta"])
    other = meanwhile(copy, lambda: retune_model(copy, "small", ["stomach"], device=CPU))
    digest, done = retune_model(copy, "small", ["aorta"], device=CPU, on_progress=other)
    first, theirs, ours = (heads_of(copy, f"small:{n}") for n in (1, 2, 3))
    assert done.onto == "small:2" and done.beside == () and done.over == ()
    assert set(theirs) == {"liver", "spleen", "stomach"} and set(ours) == {*theirs, "aorta"}
    assert {n: ours[n] for n in theirs} == theirs and {n: theirs[n] for n in first} == first
    assert done.proof is not None and done.proof.max_abs_change == {"liver": 0, "spleen": 0, "stomach": 0}
    registry = copy.open_registry()
    record = registry.load("small").record
    assert registry.resolve("small") == digest and "on small:2, which came meanwhile" in record.note
    assert record.parents == (registry.resolve("small:2"), registry.resolve("small:1"))
    assert retune_model(copy, "small", ["aorta"], device=CPU)[1].onto == ""


def test_a_version_that_comes_between_the_look_and_the_registration_counts_too(
    copy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, plain = list[int](), meanwhile_of.build_on

    def slow(*words: Any) -> Any:
        found = plain(*words)
        looked.append(len(words[1]))
        if len(looked) == 1:
            recompose.rename(copy.open_registry(), "small", "spleen", "lien", name="small")
        return found

    monkeypatch.setattr("ctune.foundation.build_on", slow)
    _, done = retune_model(copy, "small", ["aorta"], device=CPU)
    assert looked == [1, 2] and done.onto == "small:2"
    assert set(heads_of(copy, "small:3")) == {"liver", "lien", "aorta"}


def test_the_same_class_tuned_twice_at_once_is_said(copy: Project) -> None:
    other = meanwhile(copy, lambda: retune_model(copy, "small", ["aorta", "liver"], device=CPU))
    revise(copy, "case_0", "liver", volume(0)[1]["liver"])
    _, done = retune_model(copy, "small", ["aorta"], device=CPU, on_progress=other)
    theirs, ours = heads_of(copy, "small:2"), heads_of(copy, "small:3")
    assert done.over == () or theirs["aorta"] != ours["aorta"]
    assert {n: ours[n] for n in ("liver", "spleen")} == {n: theirs[n] for n in ("liver", "spleen")}


def test_a_version_of_another_base_that_came_meanwhile_is_named(copy: Project) -> None:
    free = adjusted(copy, "tune", {"trainable": "all", "epochs": 1})
    other = meanwhile(copy, lambda: retune_model(free, "small", ["aorta"], device=CPU))
    _, done = retune_model(copy, "small", ["aorta"], device=CPU, on_progress=other)
    assert done.beside == ("small:2",) and done.onto == ""
    assert retune_model(copy, "small:1", ["aorta"], device=CPU)[1].beside == ()


def test_torchrun_is_told_that_heads_are_tuned_in_one_process(
    copy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, text = said(copy.root, "tune", "small", "--classes", "aorta")
    assert code == 2 and "\n" not in text
    assert text.startswith(
        "error: expected one process for ctune tune, got WORLD_SIZE = 2: each would do all of it"
    )
    assert "`ctune train`" in text and len(copy.open_registry().versions("small")) == 1


def test_what_a_killed_tuning_left_goes_after_a_day(copy: Project) -> None:
    old, young = copy.root / ".tuning-old", copy.root / ".tuning-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "head-aorta.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    kept, forgotten = (copy.cache / "training" / f"tune-{n}.safetensors" for n in "ab")
    for path, days in ((kept, 2), (forgotten, 31)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    retune_model(copy, "small", ["aorta"], device=CPU)
    assert not old.exists() and young.exists() and kept.exists() and not forgotten.exists()


def test_an_error_in_one_head_ends_the_others(tmp_path: Path) -> None:
    net, seen = network(("liver", "spleen")), {"liver": 0, "spleen": 0}
    both = threading.Barrier(2)

    def tell(step: Progress) -> None:
        name = step.stage.removeprefix("tune ")
        if name in seen:
            seen[name] += 1
            if seen[name] == 1:
                both.wait(60)
            if name == "liver":
                raise OSError("no space left")

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    settings = config().tune.model_copy(update={"epochs": 100_000})
    try:
        with pytest.raises(OSError, match="no space left"):
            tune_heads(
                net, ("liver", "spleen"), [prepared(0, ("liver", "spleen"))], settings, window=(16, 16, 16),
                overlap=0.25, seed=0, device=CPU, cache=tmp_path, on_progress=tell,
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert seen["spleen"] < 100_000


def test_ctrl_c_ends_a_tuning_and_leaves_nothing(copy: Project) -> None:
    words = ["tune", "small", "--classes", "aorta", "--epochs", "1000000", "--project", str(copy.root)]
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import ctune.tune as t; plain = t.make_optimiser;"
        "t.make_optimiser = lambda *w, **k: (os.write(1, b'tuning\\n'), plain(*w, **k))[1];"
        f"sys.argv = {['ctune', *words]!r}; from cli.main import run; run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "tuning\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors
    assert list(copy.root.glob(".tuning-*")) == [] and len(copy.open_registry().versions()) == 1


def test_a_disk_that_is_full_makes_the_cache_slower_and_ends_nothing(tmp_path: Path) -> None:
    base = network().base.eval()
    view, image = View("ct", (0, 0, 0), (16, 16, 16)), prepared(0, ()).image
    cache = FeatureCache(tmp_path, base, "base", CPU)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a disk that takes no file of more
    try:
        slow = cache.open(view, lambda: image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(slow, PassedFeatures) and list(tmp_path.rglob("*safetensors")) == []
    kept = FeatureCache(tmp_path, base, "base", CPU).open(view, lambda: image)
    assert isinstance(kept, KeptFeatures)
    whole = ((0, 0, 0), (16, 16, 16))
    for one, other in zip(
        slow.read(*whole).tensors().values(), kept.read(*whole).tensors().values(), strict=True
    ):
        assert torch.equal(one, other), "rounded alike: the same bits with and without room"
