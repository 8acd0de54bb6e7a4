"""Make the subject of every gate worse on purpose, and see that its gate fails: ``python benchmarks/worsen.py [NAME ...]``.

Each fault is one that could come in by mistake. The suite runs with it in a process of its own, must end with exit code 3 and
must fail every test that the fault is for. Takes some minutes; run it when a gate or its bound changes.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Fault:
    """about: what is wrong. suite: the file that must notice. expected: tests of it that must fail."""

    about: str
    suite: str
    expected: tuple[str, ...]
    make: Callable[[], None]


def slow_tuning() -> None:
    """The cache keeps nothing, another head is nudged and nobody proves that it was not, and heads do not learn."""
    import torch

    continual, tune = importlib.import_module("ctune.continual"), importlib.import_module("ctune.tune")
    plain, tuned_one = tune.feature_source, tune._tune_one

    def live(folder: Path, network: Any, digest: str, settings: Any, *rest: Any, **named: Any) -> Any:
        return plain(folder, network, digest, settings.model_copy(update={"cache_gb": 0.0}), *rest, **named)

    def nudged(network: Any, name: str, *rest: Any) -> Any:
        with torch.no_grad():
            other = next(n for n in network.classes if n != name)
            next(network.head(other).parameters()).add_(1e-3)
        return tuned_one(network, name, *rest)

    def unproved(before: Any, after: Any) -> Any:
        change = {n: float((after.logits[n] - old).abs().max()) for n, old in before.logits.items()}
        return tune.Proof(after.base_fingerprint, change, 0)

    def compose_all(model: Any, folder: Path) -> Any:
        return model.network

    tune.feature_source, tune._tune_one, continual.prove_unmoved = live, nudged, unproved
    continual.compose = compose_all
    tune.set_learning_rate = lambda optimiser, *_: [group.update(lr=0.0) for group in optimiser.param_groups]


def slow_engine() -> None:
    """Windows of air run, and every CT is resampled five times."""
    engine = importlib.import_module("ctune.inference.engine")
    once = engine.to_network

    def often(case: Any, settings: Any) -> Any:
        for _ in range(4):
            once(case, settings)
        return once(case, settings)

    engine.to_network = often
    engine.find_body = lambda *_: None


def slow_training() -> None:
    """Batches run in parts and in another memory format, and are drawn when they are needed."""
    training = importlib.import_module("ctune.bench.training")
    plain = training.config_of

    def worse(*words: Any) -> Any:
        config = plain(*words)
        changes = {"accumulate": 2, "channels_last": False, "prefetch": 0}
        return config.model_copy(update={"train": config.train.model_copy(update=changes)})

    training.config_of = worse


def slow_registry() -> None:
    """Every blob is written and synced five times."""
    folder = importlib.import_module("registry.folder")

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, handle: int) -> None:
            os.fsync(handle)
            for _ in range(4):
                with tempfile.TemporaryFile(dir=tempfile.gettempdir()) as file:
                    file.write(bytes(os.fstat(handle).st_size or 2**21))
                    file.flush()
                    os.fsync(file.fileno())

    folder.os = Os()


def slow_start() -> None:
    """The command line imports numpy and pydantic before it knows what is asked."""
    sys.path.insert(0, str(HERE))
    suite = importlib.import_module("test_cli_start")
    code = "import sys, numpy, pydantic.main, asyncio; sys.argv = ['ctune', '--help']; from cli.main import run; run()"
    suite.HELP[:] = [sys.executable, "-c", code]


FAULTS = {
    "tuning": Fault(
        "no cache, a head that is not frozen, a learning rate of 0",
        "test_tuning.py",
        (
            "test_full_training_takes_longer",
            "test_the_cache_saves_time",
            "test_nothing_else_moves",
            "test_dice_stays_where_it_was",
        ),
        slow_tuning,
    ),
    "engine": Fault(
        "air runs, resampling five times", "test_inference.py", ("test_around_the_network",), slow_engine
    ),
    "training": Fault(
        "batches in parts, contiguous, drawn when needed",
        "test_training.py",
        ("test_full_training_is_not_slower_than_a_plain_loop",),
        slow_training,
    ),
    "registry": Fault("blobs written five times", "test_registry.py", ("test_register",), slow_registry),
    "start": Fault("numpy and pydantic imported at once", "test_cli_start.py", ("test_help",), slow_start),
}


def run_with(name: str) -> int:
    """In this process: make the fault, run the suite, return pytest's exit code."""
    import pytest

    fault = FAULTS[name]
    fault.make()
    return int(pytest.main([str(HERE / fault.suite), "--benchmark-only", "-q", "-rf", "--tb=line"]))


def noticed(name: str) -> bool:
    """In a process of its own: whether exit code and failed tests are those that the fault must cause."""
    done = subprocess.run(
        [sys.executable, __file__, "--with", name], capture_output=True, text=True, check=False
    )
    failed = set(re.findall(r"^FAILED \S*::(\w+)", done.stdout, re.M))
    said = re.findall(r"GateError: (.*)", done.stdout)
    right = done.returncode == 3 and failed == set(FAULTS[name].expected)
    print(
        f"{'noticed' if right else 'NOT NOTICED'}: {name}: {FAULTS[name].about}; exit code {done.returncode}"
    )
    for line in dict.fromkeys(said):
        print(f"  {line}")
    if not right:
        print(done.stdout[-3000:], done.stderr[-2000:])
    return right


if __name__ == "__main__":
    if sys.argv[1:2] == ["--with"]:
        sys.exit(run_with(sys.argv[2]))
    found = [noticed(name) for name in sys.argv[1:] or FAULTS]
    sys.exit(0 if all(found) else 1)
