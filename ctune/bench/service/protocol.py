"""The service under measurement: how soon it is ready, what it adds to the engine, whether it loses, leaks or breaks.

Everything is asked over HTTP of a process of its own; the engine is called in this process with the same graphs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ctune.bench.catalogue import Preset
from ctune.bench.result import Measured
from ctune.bench.run import part
from ctune.bench.service.figures import gates, summary
from ctune.bench.service.inputs import Bad, bad_inputs
from ctune.bench.service.process import REFERENCE, ServiceProcess, card, make_registry, next_version
from ctune.data.files import sha256_of
from ctune.data.nifti import read_case, write_volume
from ctune.data.phantom import write_cohort
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.output import Wanted
from ctune.serve.graphs import OnnxLoader
from ctune.serve.model import ServedModel, ServedRuntime, load
from ctune.serve.registered import RegistrySource
from ctune.types import Grid, OnProgress, Progress
from registry import Registry

_HANG_S = 60.0
_STEPS = ("ready", "overhead", "parallel", "memory", "swap", "kill", "bad", "schema")


@dataclass(frozen=True)
class Scale:
    """starts: of the process. asked: requests beside the engine. memory: requests for the memory. swaps, bad: how many.
    examples: of schemathesis an operation. side: of the CT of the job that is killed."""

    starts: int
    asked: int
    memory: int
    swaps: int
    bad: int
    examples: int
    side: int


SCALES = {Preset.SMOKE: Scale(1, 4, 24, 2, 64, 3, 96), Preset.CPU: Scale(5, 60, 520, 10, 2000, 60, 160)}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``catalogue.Bench``. The first seed alone: what is measured is one service."""
    scale, seed = SCALES[Preset(preset)], seeds[0]
    cts = _cts(work / "cts", seed)
    if not (work / "registry").exists():
        make_registry(work / "registry", seed)
    bench = _Bench(work, scale, seed, cts)
    found: dict[str, Any] = {}
    for number, step in enumerate(_STEPS):
        on_progress(Progress("service", number, len(_STEPS), step))
        found[step] = part(work / f"{step}.json", getattr(bench, step))
    on_progress(Progress("service", len(_STEPS), len(_STEPS)))
    measures = summary(found)
    failures = [] if found["schema"]["ran"] else ["schemathesis: not installed"]
    data = {path.parent.name: sha256_of(path) for path in cts}
    return Measured(measures, found, failures, data, gates(measures, preset))


class _Bench:
    """The steps; each starts a service of its own and returns plain figures."""

    def __init__(self, work: Path, scale: Scale, seed: int, cts: Sequence[Path]) -> None:
        self.work, self.scale, self.seed = work, scale, seed
        self.cts = [path.read_bytes() for path in cts]
        self._paths = cts

    def service(self) -> ServiceProcess:
        return ServiceProcess(self.work)

    def ready(self) -> dict[str, Any]:
        """The first start makes the graphs, the later ones open them."""
        found, computed = [], []
        for _ in range(self.scale.starts + 1):
            with self.service() as service:
                found.append(round(service.ready_seconds, 3))
                computed.append(service.processor_seconds())
        return {"first": found[0], "later": found[1:], "processor": computed[1:]}

    def overhead(self) -> dict[str, Any]:
        """One request after the other, and between them the engine on the same file."""
        model, direct, asked = self._model(), [], []
        with self.service() as service, service.client() as client:
            for number in range(self.scale.asked + 3):
                begun = time.perf_counter()
                self._direct(model, self._paths[0], self.work / "direct" / str(number))
                between = time.perf_counter()
                client.post("/segment", content=self.cts[0]).raise_for_status()
                direct.append(between - begun)
                asked.append(time.perf_counter() - between)
        return {"direct": direct[3:], "service": asked[3:]}

    def parallel(self) -> dict[str, Any]:
        """Eight clients at once get what each got alone."""
        with self.service() as service, service.client() as client:
            alone = [client.post("/segment", content=ct).content for ct in self.cts]

            def ask(number: int) -> tuple[int, bool]:
                with service.client() as own:
                    answer = own.post("/segment", content=self.cts[number % len(self.cts)])
                return answer.status_code, answer.content == alone[number % len(self.cts)]

            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(ask, range(8 * max(2, self.scale.asked // 8))))
        return {
            "asked": len(answers),
            "failed": sum(status != 200 for status, _ in answers),
            "different": sum(not same for status, same in answers if status == 200),
        }

    def memory(self) -> dict[str, Any]:
        """What the process holds, before the first and after each tenth of the requests, always after the same CT of the four."""
        count, held = self.scale.memory, []
        with self.service() as service, service.client() as client:
            for number in range(count + 1):
                if number % max(1, count // 10) == 0:
                    # A client has its answer before the service has given back what the volume took.
                    time.sleep(0.3)
                    held.append(round(service.resident_mb(), 1))
                client.post("/segment", content=self.cts[number % len(self.cts)]).raise_for_status()
        return {"requests": count, "resident_mb": held}

    def swap(self) -> dict[str, Any]:
        """Four clients ask without a pause while the alias moves to versions with a head that nobody has seen."""
        registry = Registry.open(self.work / "registry")
        statuses: Counter[str] = Counter()
        ended = threading.Event()

        def ask() -> None:
            with service.client() as own:
                while not ended.is_set():
                    try:
                        statuses[str(own.post("/segment", content=self.cts[0]).status_code)] += 1
                    except httpx.TransportError:
                        statuses["none"] += 1

        with self.service() as service, service.client() as client, ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                seen = [self._swap(registry, client, number) for number in range(self.scale.swaps)]
                told = [s["seconds"] for s in card(client)["swaps"] if s["outcome"] == "served"]
            finally:
                ended.set()
            for one in asking:
                one.result()
        failed = sum(count for status, count in statuses.items() if status != "200")
        return {"seconds": told, "noticed_seconds": seen, "asked": statuses["200"], "failed": failed}

    def kill(self) -> dict[str, Any]:
        """A job that is killed in its middle is done again, or told to have failed."""
        side = self.scale.side
        grid = Grid((side, side, side), np.diag([-7.0, 7.0, 7.0, 1.0]))
        noise = np.random.default_rng(self.seed).normal(40, 60, grid.shape).astype(np.int16)
        write_volume(self.work / "long.nii.gz", noise, grid)
        service = self.service().start()
        with service.client() as client:
            job = client.post("/jobs", content=(self.work / "long.nii.gz").read_bytes()).json()["id"]
            while (before := client.get(f"/jobs/{job}").json()["state"]) == "queued":
                time.sleep(0.01)
            service.kill()
        with service, service.client() as client:
            while (after := client.get(f"/jobs/{job}").json())["state"] in ("queued", "running"):
                time.sleep(0.1)
        return {"before": before, "after": after["state"], "attempts": after["attempts"]}

    def bad(self) -> dict[str, Any]:
        """Bad requests, four at a time; then the service must be ready and right."""
        statuses: dict[str, Counter[str]] = {}
        slowest = 0.0
        with self.service() as service, service.client(_HANG_S) as client, ThreadPoolExecutor(4) as pool:
            expected = client.post("/segment", content=self.cts[0]).content
            with httpx.Client(base_url=service.url, timeout=_HANG_S) as stranger:
                clients = {True: client, False: stranger}
                ask = partial(_ask_bad, clients)
                for kind, status, seconds in pool.map(ask, bad_inputs(self.scale.bad, self.seed)):
                    statuses.setdefault(kind, Counter())[status] += 1
                    slowest = max(slowest, seconds)
            right = client.post("/segment", content=self.cts[0]).content == expected
            ready = service.is_ready()
            left = len(list((self.work / "state" / "scratch").iterdir()))
        return {
            "statuses": statuses,
            "slowest_seconds": slowest,
            "ready": ready,
            "right": right,
            "left": left,
        }

    def schema(self) -> dict[str, Any]:
        """schemathesis on the OpenAPI document: no server error, whatever the document allows."""
        if importlib.util.find_spec("schemathesis") is None:
            return {"ran": False, "passed": None, "ready": None, "tail": []}
        with self.service() as service:
            command = [
                sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--header",
                f"Authorization: Bearer {service.token}", "--checks", "not_a_server_error", "--max-examples",
                str(self.scale.examples), "--seed", str(self.seed), "--no-color", "--request-timeout", str(_HANG_S),
            ]  # fmt: skip
            done = subprocess.run(command, cwd=self.work, capture_output=True, text=True, check=False)
            ready = service.is_ready()
        return {
            "ran": True,
            "passed": done.returncode == 0,
            "ready": ready,
            "tail": done.stdout.splitlines()[-40:],
        }

    def _swap(self, registry: Registry, client: httpx.Client, number: int) -> float:
        digest = next_version(registry, self.seed + number + 1)
        version = registry.versions("bench")[-1].version
        registry.set_alias("bench", "production", version)
        begun = time.perf_counter()
        while card(client)["model"] != f"sha256:{digest}":
            if time.perf_counter() - begun > _HANG_S:
                raise TimeoutError("the service did not take the new model")
            time.sleep(0.02)
        return round(time.perf_counter() - begun, 3)

    def _model(self) -> ServedModel:
        source = RegistrySource(Registry.open(self.work / "registry"), REFERENCE)
        return load(source, OnnxLoader(self.work / "state" / "graphs", source), source.resolve())

    @staticmethod
    def _direct(model: ServedModel, ct: Path, out: Path) -> None:
        runtime = ServedRuntime(model, model.classes, lambda: None)
        job = Job("ct", partial(read_case, ct, "ct"), out)
        predict_jobs(runtime, [job], model.about.config, model=model.about.digest, wanted=Wanted(labels=True))


def _ask_bad(clients: Mapping[bool, httpx.Client], one: Bad) -> tuple[str, str, float]:
    """(kind, status or what went wrong, seconds)"""
    begun, status = time.perf_counter(), "none"
    with contextlib.suppress(httpx.TransportError, httpx.InvalidURL):
        answer = clients[one.mine].post(one.path, content=one.data, headers=one.headers)
        status = str(answer.status_code)
        if "/state/" in answer.text or "Traceback" in answer.text:
            status = "told"
    return one.kind, status, time.perf_counter() - begun


def _cts(folder: Path, seed: int) -> list[Path]:
    if not folder.exists():
        write_cohort(folder, 4, seed, "small", lambda _: None)
    return sorted(folder.rglob("ct.nii.gz"))
