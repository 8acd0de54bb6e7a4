"""docs/cli.md is what scripts/generate_cli_docs.py writes today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    # In a process of its own: neither a terminal's width nor another test's environment may reach the page.
    done = subprocess.run(
        [sys.executable, "-c", "from scripts.generate_cli_docs import page; print(page(), end='')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
    )
    committed = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert committed == done.stdout, "run `make docs`"
