"""Training by torchrun on two hosts, through the loss of a process and of a host: the weights of a training without it.

Run by ``make scale-test``; hosts are network namespaces with addresses of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_cluster import Host, hosts
from small_network import project

from ctune.compositions import load_model
from ctune.project import Project

EPOCHS = 12
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    with hosts(2) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """On a disk that both hosts share."""
    train = {
        "patch_size": (16, 16, 16), "patches_per_case": 3, "batch_size": 4, "epochs": EPOCHS, "warmup_epochs": 0.5,
        "learning_rate": 1e-3, "checkpoint_every": 1, "validate_every": 0,
    }  # fmt: skip
    return project(tmp_path_factory.mktemp("project"), pool=5, train=train)[0]


def begin(made: Project, host: Host, first: Host, name: str) -> subprocess.Popen[str]:
    """torchrun on one host, as docs/training.md has it; the first is where they meet."""
    # All namespaces have the machine's name, by which torchrun would know where it is.
    meeting = f"is_host={host is first},read_timeout=60"
    return host.begin(
        BIN / "torchrun", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", name,
        "--rdzv-endpoint", f"{first.address}:29500", "--local-addr", host.address,
        "--rdzv-conf", meeting, "--max-restarts", "3",
        "--no-python", BIN / "ctune", "train", "--name", name, "--project", made.root, "--json",
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", GLOO_SOCKET_IFNAME="eth0", OMP_NUM_THREADS="1",
    )  # fmt: skip


def ended(run: subprocess.Popen[str]) -> str:
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err[-3000:]
    return out


def answer(out: str) -> dict[str, object]:
    """The last document; a process that found another gone had said so in one of its own."""
    found: dict[str, object] = json.loads(out[out.rindex("\n{") :] if out.count("\n{") else out)
    return found


def weights(made: Project, name: str) -> dict[str, torch.Tensor]:
    return load_model(made.open_registry(), name, torch.device("cpu")).network.state_dict()


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def undisturbed(made: Project, two: list[Host]) -> dict[str, torch.Tensor]:
    runs = [begin(made, host, two[0], "undisturbed") for host in two]
    said = [ended(run) for run in runs]
    assert sum(bool(out.strip()) for out in said) == 1, "the first process alone answers"
    assert answer("".join(said))["processes"] == 2
    assert len(made.open_registry().versions("undisturbed")) == 1, "and registers"
    return weights(made, "undisturbed")


def test_a_process_on_the_other_host_is_killed(
    made: Project, two: list[Host], undisturbed: dict[str, torch.Tensor]
) -> None:
    runs = [begin(made, host, two[0], "process") for host in two]
    reached(made, "process", 2, runs[0])
    trained = [pid for pid in two[1].pids() if "RANK=" in environment_of(pid)]
    assert len(trained) == 1
    os.kill(trained[0], signal.SIGKILL)
    said = [ended(run) for run in runs]
    assert 2 <= int(str(answer("".join(said))["resumed_at_epoch"])) < EPOCHS
    assert same(weights(made, "process"), undisturbed)


@pytest.mark.parametrize("how", ["killed", "power"])
def test_a_whole_host_is_lost_and_comes_back(
    made: Project, two: list[Host], undisturbed: dict[str, torch.Tensor], how: str
) -> None:
    """Without power it does not even close its connections: the other waits in the middle of a step."""
    runs = [begin(made, host, two[0], how) for host in two]
    reached(made, how, 2, runs[0])
    if how == "power":
        two[1].plug("down")
    assert two[1].kill() >= 2, "torchrun itself and what it had started"
    runs[1].wait()
    two[1].plug("up")
    runs[1] = begin(made, two[1], two[0], how)
    said = [ended(run) for run in runs]
    assert 2 <= int(str(answer("".join(said))["resumed_at_epoch"])) < EPOCHS
    assert same(weights(made, how), undisturbed)


def test_where_they_meet_is_lost_and_the_same_command_goes_on(
    made: Project, two: list[Host], undisturbed: dict[str, torch.Tensor]
) -> None:
    runs = [begin(made, host, two[0], "meeting") for host in two]
    reached(made, "meeting", 2, runs[0])
    assert two[0].kill() >= 2
    assert all(run.wait(timeout=300) != 0 for run in runs), "the other ends too, and says that it failed"
    said = [ended(run) for run in [begin(made, host, two[0], "meeting") for host in two]]
    assert 2 <= int(str(answer("".join(said))["resumed_at_epoch"])) < EPOCHS
    assert same(weights(made, "meeting"), undisturbed)


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().replace(b"\0", b"\n").decode(errors="replace")
    except OSError:
        return ""


def reached(made: Project, name: str, epochs: int, run: subprocess.Popen[str]) -> None:
    """Wait until a checkpoint of so many epochs is there."""
    path = made.root / "cache" / "training" / f"{name}.safetensors"
    while True:
        assert run.poll() is None, run.communicate()
        if path.exists():
            with safe_open(path, framework="pt") as file:
                if int(file.metadata()["epoch"]) >= epochs:
                    return
        time.sleep(0.02)
