"""Make the subject of every gate worse on purpose, and see that its gate fails: ``python benchmarks/worsen.py [NAME ...]``.

Each fault is one that could come in by mistake, and one gate's. The suite runs with it in a process of its own, must end with
exit code 3, fail the tests that the fault is for and no other, and say so of the figure. Takes some minutes; run it when a gate or
its bound changes.
"""

from __future__ import annotations

import copy
import dataclasses
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
    """about: what is wrong. suite: the file that must notice. expected: tests of it that must fail; also: those that may.
    said: what a gate must say of the figure, as a regular expression."""

    about: str
    suite: str
    expected: tuple[str, ...]
    make: Callable[[], None]
    said: str
    also: tuple[str, ...] = ()


def no_cache() -> None:
    """The cache keeps nothing: the base runs in every step."""
    tune = importlib.import_module("ctune.tune")
    plain = tune.feature_source

    def live(folder: Path, network: Any, digest: str, settings: Any, *rest: Any, **named: Any) -> Any:
        return plain(folder, network, digest, settings.model_copy(update={"cache_gb": 0.0}), *rest, **named)

    tune.feature_source = live


def tuned_again() -> None:
    """Every head is tuned three times from the same weights, and two of them are thrown away."""
    tune = importlib.import_module("ctune.tune")
    once = tune._tune_one

    def thrice(network: Any, name: str, *rest: Any) -> Any:
        before = copy.deepcopy(network.head(name).state_dict())
        for _ in range(2):
            network.head(name).load_state_dict(before)
            once(network, name, *rest)
        network.head(name).load_state_dict(before)
        return once(network, name, *rest)

    tune._tune_one = thrice


def moving_head() -> None:
    """Another head is nudged, and nobody proves that it was not."""
    import torch

    continual, tune = importlib.import_module("ctune.continual"), importlib.import_module("ctune.tune")
    tuned_one = tune._tune_one

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

    tune._tune_one, continual.prove_unmoved, continual.compose = nudged, unproved, compose_all


def not_learning() -> None:
    """Heads train with a learning rate of 0."""
    tune = importlib.import_module("ctune.tune")
    tune.set_learning_rate = lambda optimiser, *_: [group.update(lr=0.0) for group in optimiser.param_groups]


def flattering_dice() -> None:
    """Dice is taken for Jaccard's index and turned into Dice once more: every figure is higher than it is."""
    speed = importlib.import_module("ctune.bench.speed.protocol")
    plain = speed.score_tests

    def turned(*words: Any) -> Any:
        found = plain(*words)
        return {
            name: {case: None if dice is None else 2 * dice / (1 + dice) for case, dice in cases.items()}
            for name, cases in found.items()
        }

    speed.score_tests = turned


def slow_engine() -> None:
    """Windows of air run, and every CT is resampled ten times."""
    engine = importlib.import_module("ctune.inference.engine")
    once = engine.to_network

    def often(case: Any, settings: Any) -> Any:
        for _ in range(9):
            once(case, settings)
        return once(case, settings)

    engine.to_network = often
    engine.find_body = lambda *_: None


def slow_training() -> None:
    """Batches run in parts and in another memory format, and are drawn when they are needed."""
    _train_with(accumulate=2, channels_last=False, prefetch=0)


def slow_patches() -> None:
    """Patches are drawn when they are needed, and each is drawn from a disk that takes its time."""
    _train_with(prefetch=0)
    training = importlib.import_module("ctune.bench.training.protocol")
    slowly = (
        "import sys, time; from ctune.optimise import PatchBatches as P; draw = P.draw\n"
        "P.draw = lambda *words: (time.sleep(0.3), draw(*words))[1]\n"
    )
    training.WORK = slowly + training.WORK


def _train_with(**changes: Any) -> None:
    training = importlib.import_module("ctune.bench.training.protocol")
    plain = training.config_of

    def worse(*words: Any) -> Any:
        config = plain(*words)
        return config.model_copy(update={"train": config.train.model_copy(update=changes)})

    training.config_of = worse


def slow_service() -> None:
    """Every CT is predicted twice: once to see whether it can be, once for the answer."""
    served = importlib.import_module("ctune.serve.segment")
    plain = served.predict_jobs

    def twice(runtime: Any, jobs: Any, *rest: Any, **named: Any) -> Any:
        trial = [dataclasses.replace(job, folder=job.folder.with_name("trial")) for job in jobs]
        plain(runtime, trial, *rest, **named)
        return plain(runtime, jobs, *rest, **named)

    served.predict_jobs = twice


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
    "cache": Fault(
        "the cache keeps nothing",
        "test_tuning.py",
        ("test_the_cache_saves_time",),
        no_cache,
        "time_ratio_uncached_over_cached: expected at least",
        also=("test_full_training_takes_longer",),
    ),
    "tuning": Fault(
        "every head is tuned three times",
        "test_tuning.py",
        ("test_full_training_takes_longer",),
        tuned_again,
        "time_ratio_full_over_continual: expected at least",
    ),
    "forgetting": Fault(
        "a head that is not frozen",
        "test_tuning.py",
        ("test_nothing_else_moves",),
        moving_head,
        "unrevised_max_abs_logit_change: expected at most 0",
    ),
    "learning": Fault(
        "a learning rate of 0",
        "test_tuning.py",
        ("test_dice_stays_where_it_was",),
        not_learning,
        "dice_new_classes: expected at least",
    ),
    "dice": Fault(
        "Dice that flatters",
        "test_tuning.py",
        ("test_dice_stays_where_it_was",),
        flattering_dice,
        "dice_new_classes: expected at most",
    ),
    "engine": Fault(
        "air runs, resampling ten times",
        "test_inference.py",
        ("test_around_the_network",),
        slow_engine,
        "around_network_speedup_over_monai: expected at least",
    ),
    "training": Fault(
        "batches in parts, contiguous, drawn when needed",
        "test_training.py",
        ("test_full_training_is_not_slower_than_a_plain_loop",),
        slow_training,
        "time_ratio_monai_over_ctune: expected at least",
        also=("test_full_training_does_not_wait_for_patches",),
    ),
    "patches": Fault(
        "patches from a slow disk, drawn when needed",
        "test_training.py",
        ("test_full_training_does_not_wait_for_patches",),
        slow_patches,
        "computing_share: expected at least",
        also=("test_full_training_is_not_slower_than_a_plain_loop",),
    ),
    "service": Fault(
        "every CT predicted twice",
        "test_service.py",
        ("test_overhead",),
        slow_service,
        "segment_over_engine: expected at most",
    ),
    "registry": Fault(
        "blobs written five times",
        "test_registry.py",
        ("test_register",),
        slow_registry,
        "register_ratio_to_plain_write: expected at most",
    ),
    "start": Fault(
        "numpy and pydantic imported at once",
        "test_cli_start.py",
        ("test_help",),
        slow_start,
        "times_the_bare_interpreter: expected at most",
    ),
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
    fault, said = FAULTS[name], re.findall(r"GateError: (.*)", done.stdout)
    expected = set(fault.expected) <= failed <= {*fault.expected, *fault.also}
    right = done.returncode == 3 and expected and any(re.search(fault.said, line) for line in said)
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
