"""A service as users run it, for measuring: a registry with an untrained small network, `ctune serve` in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import torch

from ctune.classes import NINE_ORGANS
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config, preset
from ctune.errors import CtuneError
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from registry import Registry

NAME = "bench"
REFERENCE = f"{NAME}@production"


def bench_config() -> Config:
    """The preset for small phantoms: windows of 40^3, ``unet_small``."""
    return preset("phantom", device="cpu")


def make_registry(root: Path, seed: int) -> Registry:
    """Nine text heads on an untrained ``unet_small``; version 1 is in production."""
    registry, config = Registry.open(root), bench_config()
    base = build_base(config.base, seed)
    network = Network(base, {name: build_head(name, "text", base, seed) for name in NINE_ORGANS})
    register_model(registry, NAME, network, config, {})
    registry.set_alias(NAME, "production", 1)
    return registry


def next_version(registry: Registry, seed: int) -> str:
    """Another version with a new head of the liver; returns its digest. No alias moves."""
    model = load_model(registry, NAME, torch.device("cpu"))
    model.network.set_head("liver", build_head("liver", "text", model.network.base, seed))
    tuned = {"liver": Tuned((), {}, seed, seed)}
    return register_model(
        registry, NAME, model.network, bench_config(), tuned, parent=model, round_number=seed
    )


class ServiceProcess:
    """`ctune serve` on loopback. ready_seconds: from the start of the process to the first answer of ``/readyz``."""

    def __init__(self, work: Path) -> None:
        self.work, self.token = work, ""
        self._command = [str(Path(sys.executable).parent / "ctune"), "serve"]
        said = self._run("--add-token", "bench", "--tokens", str(work / "tokens.json"), "--json")
        self.token = json.loads(said)["token"]
        self.ready_seconds = 0.0

    def start(self) -> Self:
        """Start it and wait until it is ready. Raises CtuneError when it never is."""
        self.port = _free_port()
        words = [
            *self._command, REFERENCE, "--registry", str(self.work / "registry"), "--state", str(self.work / "state"),
            "--tokens", str(self.work / "tokens.json"), "--port", str(self.port), "--poll", "0.1", "--queue", "32",
        ]  # fmt: skip
        self.log = (self.work / "service.log").open("ab")
        begun = time.perf_counter()
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - begun > 120:
                raise CtuneError(
                    f"expected a service, got none within {time.perf_counter() - begun:.0f} s; see {self.work / 'service.log'}"
                )
            time.sleep(0.02)
        self.ready_seconds = time.perf_counter() - begun
        return self

    def is_ready(self) -> bool:
        """Whether it answers that it is."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def client(self, seconds: float = 60.0) -> httpx.Client:
        """A client with the token."""
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=seconds)

    def resident_mb(self) -> float:
        """Memory that it holds now, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def processor_seconds(self) -> float:
        """What it has computed so far, on all cores: a busy machine changes little."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def stop(self) -> None:
        """Ask it to end."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words], check=True, capture_output=True, text=True, env=dict(os.environ)
        )
        return done.stdout


def card(client: httpx.Client) -> dict[str, Any]:
    """What ``/model`` tells."""
    found: dict[str, Any] = client.get("/model").json()
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
