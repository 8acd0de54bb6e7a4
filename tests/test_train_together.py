"""Training by several real processes, and through kill -9: the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gradients_together import gradients
from safetensors import safe_open
from safetensors.torch import load_file
from small_network import project

from ctune.compositions import load_model
from ctune.project import Project

EPOCHS = 8
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    size = (16, 16, 16)
    train = {
        "patch_size": size, "patches_per_case": 3, "batch_size": 4, "epochs": EPOCHS, "warmup_epochs": 0.5,
        "learning_rate": 1e-3, "checkpoint_every": 1, "validate_every": 0,
    }  # fmt: skip
    # Five cases of three patches in batches of four: the last batch has three, for two processes of unequal shares.
    return project(tmp_path_factory.mktemp("project"), pool=5, train=train)[0]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def alone(made: Project, name: str) -> list[str]:
    return [str(BIN / "ctune"), "train", "--name", name, "--project", str(made.root), "--json"]


def together(made: Project, name: str, *options: str) -> list[str]:
    torchrun = [
        str(BIN / "torchrun"),
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
    ]
    return [*torchrun, *options, "--no-python", *alone(made, name)]


def ended(command: list[str]) -> str:
    """What a command printed that ended well; what it complained of, where it did not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def answer(command: list[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(ended(command))
    return found


def weights(made: Project, name: str) -> dict[str, torch.Tensor]:
    return load_model(made.open_registry(), name, torch.device("cpu")).network.state_dict()


@pytest.fixture(scope="module")
def undisturbed(made: Project) -> dict[str, torch.Tensor]:
    said = answer(alone(made, "alone"))
    assert said["processes"] == 1 and said["resumed_at_epoch"] == 0
    assert 0.0 < float(said["computing_share"]) <= 1.0  # type: ignore[arg-type]
    return weights(made, "alone")


@pytest.fixture(scope="module")
def pair(made: Project) -> dict[str, torch.Tensor]:
    """By two processes; only the first answers."""
    assert answer(together(made, "pair"))["processes"] == 2
    return weights(made, "pair")


def test_two_processes_make_the_steps_of_one(
    made: Project, undisturbed: dict[str, torch.Tensor], pair: dict[str, torch.Tensor]
) -> None:
    assert len(made.open_registry().versions("pair")) == 1, "one of them registers"
    window = torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    one, two = (
        load_model(made.open_registry(), name, torch.device("cpu")).network for name in ("alone", "pair")
    )
    with torch.inference_mode():
        logits, others = one(window), two(window)
    # Gradients are those of one process but for rounding (below); 32 steps of Adam, which divides by their size, make of
    # that what they can: a hundredth here.
    assert float((logits - others).abs().max()) < 0.05 * float(logits.abs().max())
    assert any(not torch.equal(value, pair[name]) for name, value in undisturbed.items()), "two did it"


def close(found: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> bool:
    largest = max(float(value.abs().max()) for value in whole.values())
    return found.keys() == whole.keys() and all(
        float((found[name] - value).abs().max()) < 1e-5 * largest for name, value in whole.items()
    )


def test_a_batch_in_parts_and_by_processes_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    whole = gradients()
    assert float(whole["loss"]) > 1.0
    for parts in (2, 3, 5):
        assert close(gradients(accumulate=parts), whole)
    torchrun = [
        str(BIN / "torchrun"),
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
    ]
    script = Path(__file__).with_name("gradients_together.py")
    ended([*torchrun, str(script), str(tmp_path / "g.safetensors")])
    assert close(load_file(tmp_path / "g.safetensors"), whole)


def test_killed_alone_it_ends_with_the_same_bits(made: Project, undisturbed: dict[str, torch.Tensor]) -> None:
    run = subprocess.Popen(alone(made, "killed"), stdout=subprocess.DEVNULL, env=environment())
    at = reached(made, "killed", 3, run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    said = answer(alone(made, "killed"))
    assert at <= int(said["resumed_at_epoch"]) < EPOCHS  # type: ignore[call-overload]
    found = weights(made, "killed")
    assert all(torch.equal(found[name], value) for name, value in undisturbed.items())


def test_a_killed_worker_is_started_again_and_the_weights_are_the_same(
    made: Project, pair: dict[str, torch.Tensor]
) -> None:
    run = subprocess.Popen(
        together(made, "lost", "--max-restarts", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    reached(made, "lost", 2, run)
    os.kill(worker(run.pid, rank=1), signal.SIGKILL)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err[-3000:]
    # The process that found the other gone said so in a document of its own; the last one is the answer.
    assert int(json.loads(out[out.rindex("\n{") :] if out.count("\n{") else out)["resumed_at_epoch"]) >= 2
    found = weights(made, "lost")
    assert all(torch.equal(found[name], value) for name, value in pair.items())


def reached(made: Project, name: str, epochs: int, run: subprocess.Popen) -> int:  # type: ignore[type-arg]
    """Wait until a checkpoint of so many epochs is there; gives its number."""
    path = made.root / "cache" / "training" / f"{name}.safetensors"
    while True:
        assert run.poll() is None, "it ended before it could be killed"
        if path.exists():
            with safe_open(path, framework="pt") as file:
                at = int(file.metadata()["epoch"])
            if at >= epochs:
                return at
        time.sleep(0.02)


def worker(parent: int, rank: int) -> int:
    """The process of a rank, by its environment."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
    for pid in map(int, children):
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"expected a worker of rank {rank} among {children}")
