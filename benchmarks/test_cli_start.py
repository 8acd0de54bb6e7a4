"""How long `ctune --help` takes: in seconds, and as a multiple of what the bare interpreter needs to start.

The multiple is the figure to watch: a busy or slow machine changes both times alike. Modules are compiled by the first start,
as on a user's machine, whatever PYTHONDONTWRITEBYTECODE says: compiling is half of a start without them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

HELP = [sys.executable, "-m", "cli.main", "--help"]
BARE = [sys.executable, "-c", "pass"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


BOUND = 9.0
"""Bare starts that `ctune --help` may take, whatever the reference says."""
SHARE = 1.4
"""Of the bare starts that `ctune --help` took; numpy alone would add two to six, torch fifty."""


def test_help(benchmark: BenchmarkFixture, gate: Callable[..., None]) -> None:
    benchmark.pedantic(run, args=(HELP,), rounds=7, warmup_rounds=1)
    pairs = [(seconds(HELP), seconds(BARE)) for _ in range(7)]
    figure, times = "times_the_bare_interpreter", statistics.median(h / b for h, b in pairs)
    benchmark.extra_info[figure] = round(times, 2)
    benchmark.extra_info["seconds_median"] = round(statistics.median(h for h, _ in pairs), 3)
    gate("start", figure, times, BOUND, share=SHARE)
