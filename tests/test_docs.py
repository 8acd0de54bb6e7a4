"""Documentation that can be wrong is checked: commands, options, links, files and the tour of the README."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import COMMANDS, load

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def console_lines(page: Path) -> list[list[str]]:
    """The words of every command line of a page: lines that begin with $ in a console block."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def inline_commands(page: Path) -> list[list[str]]:
    """The words of every `ctune ...` and `make ...` between backticks in running text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [shlex.split(found) for found in re.findall(r"`((?:ctune|make) [^`]+)`", text)]


ALL_LINES = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in PAGES
    if page.name != "cli.md"
    for words in [*console_lines(page), *inline_commands(page)]
]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, sub-commands followed, and the words after it."""
    command = next((c for c in COMMANDS if c.name == words[0]), None)
    assert command is not None, f"no command {words[0]}"
    built, rest = load(command), words[1:]
    while isinstance(built, typer.core.TyperGroup) and rest and not rest[0].startswith("-"):
        assert rest[0] in built.commands, f"no sub-command {rest[0]} of {built.name}"
        built, rest = built.commands[rest[0]], rest[1:]
    return built, rest


@pytest.mark.parametrize("words", ALL_LINES)
def test_every_command_on_a_page_exists(words: list[str]) -> None:
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
        assert {w for w in words[1:] if "=" not in w} <= targets
    elif words[0] == "ctune" and words[1] not in ("--help", "--version"):
        built, rest = find_command(words[1:])
        known = {flag for p in built.params for flag in (*p.opts, *p.secondary_opts)}
        assert {w.partition("=")[0] for w in rest if w.startswith("-")} <= known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = {t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t}
    named = set(re.findall(r"`((?:ctune|cli|registry|tests|docs|scripts|benchmarks)/[\w./]+\.\w+)`", text))
    missing = {t for t in linked if not (page.parent / t).exists()} | {
        n for n in named if not (ROOT / n).exists()
    }
    assert missing == set()


@pytest.mark.parametrize("page", ["method.md", "concepts.md"])
def test_names_that_follow_a_file_are_defined_in_it(page: str) -> None:
    """`folder/file.py` followed by `name`, `other name`: the file defines them."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:ctune|registry|tests)/[\w/]+\.py)`((?:,? ?`[\w.]+`)+)", text)
    assert named
    missing = []
    for path, names in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            if not re.search(rf"\b(def|class) {name}\b", source):
                missing.append(f"{path}: {name}")
    assert missing == []


@pytest.mark.slow
def test_the_tour_runs_as_written(tmp_path: Path) -> None:
    """Every `ctune` line of the README's tour, in order, in an empty folder."""
    tour = [words for words in console_lines(ROOT / "README.md") if words[0] == "ctune"]
    assert len(tour) == 5
    for words in tour:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            # Networks of this size gain nothing from a second thread, and lose much on a machine that is busy.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"


def test_the_registry_page_runs_as_written(tmp_path: Path) -> None:
    """Every Python block of docs/registry.md, in order, in one process in an empty folder."""
    text = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 3
    script = "\n".join(blocks) + "\nassert promotion.after == 1 and len(weights) > 4000\n"
    script += "assert registry.verify().clean and registry.load('abdomen').record.round == 1\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
