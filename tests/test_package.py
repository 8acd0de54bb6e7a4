"""The wheel that `pip install .` builds carries every file that the code reads beside itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cli", "ctune", "registry")


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Files of the packages as git knows them, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("the list of the project's files comes from git, and this is not a checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built from a copy of the sources; without isolation, so without a network."""
    pytest.importorskip("setuptools", minversion="77")
    work = tmp_path_factory.mktemp("wheel")
    for name in [*sources, "pyproject.toml", "README.md", "LICENSE"]:
        (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(work),
    ]
    subprocess.run([*command, str(work / "source")], check=True, capture_output=True)
    (built,) = work.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_every_file_of_the_packages_is_in_the_wheel(wheel: set[str], sources: list[str]) -> None:
    assert sorted({name for name in sources if not name.endswith(".md")} - wheel) == []


def test_the_wheel_holds_the_packages_alone(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == set(PACKAGES)
