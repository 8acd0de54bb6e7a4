"""Where a figure was measured: processor, memory, versions; nothing that names the machine or who owns it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctune import __version__
from ctune.bench.catalogue import Preset
from ctune.errors import BenchNotHereError

LIBRARIES = (
    "torch", "monai", "numpy", "scipy", "nibabel", "safetensors", "pydantic", "SQLAlchemy", "alembic", "fsspec",
    "onnx", "onnxruntime", "bentoml", "mlflow-skinny",
)  # fmt: skip


def torch_device(preset: str) -> str:
    """The device that a preset computes on, ``cuda`` or ``cpu``; smoke and cpu never use an accelerator."""
    return "cuda" if preset == Preset.GPU else "cpu"


def device_name(preset: str) -> str:
    """``cpu``, or an accelerator's own name. Raises BenchNotHereError for the preset gpu where there is none."""
    if torch_device(preset) == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise BenchNotHereError(
            "expected a CUDA device for --preset gpu, got none; choose --preset cpu or smoke"
        )
    return str(torch.cuda.get_device_name())


def device_uuid() -> str:
    """The name by which the driver knows the accelerator in use, "GPU-..."."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def machine(preset: str) -> dict[str, Any]:
    """System, processor, cores that this process may use, memory in GiB, load when it began, accelerator."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "load_1_minute": round(os.getloadavg()[0], 2),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if torch_device(preset) == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        found["accelerator"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def versions() -> dict[str, str]:
    """Versions of ctune, Python and the libraries that are installed."""
    found = {"ctune": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name.lower()] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source that runs, with ``+`` when tracked files of the packages differ from it; None outside a
    checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "ctune", "cli", "registry")
    return None if head is None else head + ("+" if changed else "")


def now() -> str:
    """This second in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mb(*, started: bool = True) -> float:
    """The highest resident memory so far in MiB: of this process, or with `started` of the largest one that it started."""
    unit = 1 if sys.platform == "darwin" else 1024
    asked = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if started else (resource.RUSAGE_SELF,)
    used = (resource.getrusage(who).ru_maxrss for who in asked)
    return round(max(used) * unit / 2**20, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
