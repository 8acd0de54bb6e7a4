"""Every benchmark that can run here, one after the other, each in a process of its own: peaks of memory are its own, too."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import BENCHES, Preset, check_preset
from ctune.bench.result import BenchResult, check_gates, read_result
from ctune.bench.run import MINUTES, RESULTS, check_asked, run_bench
from ctune.data.files import read_json, write_json
from ctune.errors import BenchNotHereError, BenchPausedError, CtuneError, GateError, UsageError
from ctune.types import OnProgress, Progress, silent

DONE, NOT_HERE, FAILED, PAUSED = "done", "not here", "failed", "paused"


def run_all(
    preset: str,
    seeds: Sequence[int] | None = None,
    out: Path = RESULTS,
    *,
    work: Path | None = None,
    minutes: float | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Run every benchmark of the catalogue; what each found, what cannot run here and why, what failed.

    Arguments are those of ``run_bench``; `minutes` is for all together. Raises BenchPausedError when they are over: the same call goes on,
    and measures nothing again. One document: results {name: path, seconds, measures, gates, passed, failures}, not_run
    {name: why}, failed {name: error}, broken {name: gates that said no}.
    """
    check_asked(seeds, out)
    began, limit = time.perf_counter(), MINUTES.get(Preset(preset), math.inf) if minutes is None else minutes
    asked = "default" if seeds is None else "-".join(map(str, seeds))
    folder = (work or out / ".unfinished") / f"all-{preset}-seeds-{asked}"
    answers: dict[str, Mapping[str, Any]] = {}
    for number, bench in enumerate(BENCHES):
        on_progress(Progress("benchmarks", number, len(BENCHES), bench.name))
        left = limit - (time.perf_counter() - began) / 60
        place = folder / f"{bench.name}.json"
        try:
            check_preset(bench, preset)
        except UsageError as error:
            answers[bench.name] = {"state": NOT_HERE, "message": str(error)}
            continue
        if not place.exists():
            if left <= 0 and answers:
                raise _paused(f"before {bench.name}", preset, folder, answers)
            _in_a_process(bench.name, preset, seeds, out, work, max(left, 0.0), place)
        answers[bench.name] = answer = read_json(place)
        if answer["state"] == PAUSED:
            place.unlink()
            raise _paused(f"in {bench.name}: {answer['message']}", preset, folder, answers)
    on_progress(Progress("benchmarks", len(BENCHES), len(BENCHES)))
    found = _summary(preset, answers)
    shutil.rmtree(folder, ignore_errors=True)
    if work is None and folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return found


def work(job: str) -> None:
    """Run one benchmark in this process; ``run_all`` writes jobs and reads the answer."""
    asked = read_json(Path(job))
    answer: dict[str, Any]
    try:
        _, path = run_bench(
            asked["what"], asked["preset"], asked["seeds"], Path(asked["out"]),
            work=asked["work"] and Path(asked["work"]), minutes=asked["minutes"] or 0.0,
        )  # fmt: skip
        answer = {"state": DONE, "path": str(path)}
    except BenchPausedError as error:
        answer = {"state": PAUSED, "message": str(error)}
    except BenchNotHereError as error:
        answer = {"state": NOT_HERE, "message": str(error)}
    except ModuleNotFoundError as error:
        # An extra that is not installed; a module of ours that is missing is a fault.
        ours = str(error.name).partition(".")[0] in ("ctune", "registry", "cli")
        answer = {"state": FAILED if ours else NOT_HERE, "message": str(error)}
    except CtuneError as error:
        answer = {"state": FAILED, "message": str(error)}
    write_json(Path(asked["answer"]), answer)


def _in_a_process(
    what: str, preset: str, seeds: Sequence[int] | None, out: Path, folder: Path | None, minutes: float, answer: Path
) -> None:  # fmt: skip
    job = answer.with_suffix(".job.json")
    write_json(
        job,
        {
            "what": what, "preset": str(preset), "seeds": seeds, "out": str(out), "work": folder and str(folder),
            "minutes": minutes if math.isfinite(minutes) else sys.float_info.max, "answer": str(answer),
        },
    )  # fmt: skip
    code = "import sys; from ctune.bench.every import work; work(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=False)
    if done.returncode or not answer.exists():
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        write_json(answer, {"state": FAILED, "message": said})


def _paused(where: str, preset: str, folder: Path, answers: Mapping[str, Any]) -> BenchPausedError:
    done = [name for name, answer in answers.items() if answer["state"] == DONE]
    return BenchPausedError(
        f"stopped {where}; {len(done)} of {len(BENCHES)} benchmarks are done, the same command goes on",
        {"what": "all", "preset": str(preset), "done": done, "total": len(BENCHES), "work": str(folder)},
    )


def _summary(preset: str, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    results = {name: read_result(Path(a["path"])) for name, a in answers.items() if a["state"] == DONE}
    broken = {name: said for name, result in results.items() if (said := _broken(result))}
    return {
        "what": "all",
        "preset": str(preset),
        "results": {
            name: {
                "path": answers[name]["path"],
                "device": result.device,
                "seconds": result.seconds,
                "measures": result.measures,
                "gates": [gate.model_dump(mode="json") for gate in result.gates],
                "passed": name not in broken,
                "failures": list(result.failures),
            }
            for name, result in results.items()
        },
        "not_run": {name: a["message"] for name, a in answers.items() if a["state"] == NOT_HERE},
        "failed": {name: a["message"] for name, a in answers.items() if a["state"] == FAILED},
        "broken": broken,
    }


def _broken(result: BenchResult) -> str:
    try:
        check_gates(result.gates)
    except GateError as error:
        return str(error)
    return ""
