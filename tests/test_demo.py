"""The demo in its tiny form: it runs, says what it did as JSON, and leaves a project and a page that stand alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctune.classes import NINE_ORGANS, OLD_FIVE
from ctune.project import open_project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:  # type: ignore[type-arg]
    out = tmp_path_factory.mktemp("demo") / "project"
    command = [sys.executable, "-m", "cli.main", "demo", "--size", "tiny", "--out", str(out), "--json"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_document(demo: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    _, document = demo
    assert set(document) >= {"rounds", "dice", "unrevised_max_abs_logit_change", "seconds", "model"}
    assert document["unrevised_max_abs_logit_change"] == 0
    assert set(document["dice"]) == set(NINE_ORGANS)
    for name, row in document["dice"].items():
        assert set(row) == {"before", "round1", "round2"}
        assert (row["before"] is None) == (name not in OLD_FIVE)
        if name in OLD_FIVE:
            assert row["before"] == row["round1"] == row["round2"], "an old class that moves was forgotten"


def test_a_complete_project_is_left(demo: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    out, document = demo
    project = open_project(out)
    registry = project.open_registry()
    assert registry.verify().clean and registry.resolve("demo@production") == document["model"]
    assert [v.version for v in registry.versions("demo")] == [1, 2, 3]
    assert {c.split for c in project.pool.cases()} == {"pool", "test"}


def test_the_report_needs_nothing_from_outside(demo: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    text = (demo[0] / "report.html").read_text()
    links = re.findall(r'(?:src|href|xlink:href)="([^"#][^"]{0,40})', text)
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in text and "@import" not in text and "url(http" not in text
    for name in NINE_ORGANS:
        assert name.replace("_", " ") in text
    assert "exactly 0" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_report_in_a_browser(demo: tuple[Path, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--no-first-run",
    ]
    picture = tmp_path / "page.png"
    page = (demo[0] / "report.html").as_uri()
    subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", "--window-size=1200,2000", page],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (2000, 1200)
    columns = pixels[..., :3].reshape(-1, 3)
    assert len({tuple(c) for c in (columns[::97] * 255).astype(int)}) > 50, "an empty page has few colours"


def test_a_folder_with_a_project_is_left_alone(demo: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "cli.main", "demo", "--size", "tiny", "--out", str(demo[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected a folder without a project" in done.stderr
