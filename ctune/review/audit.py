"""The audit log: one JSON object a line, appended and never changed; each line carries the sha256 of the one before."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from ctune.data.annotations import now
from ctune.data.files import write_atomically

_START = "0" * 64
_LONGEST_LINE = 65536
"""Bytes; a line is far shorter, so that the last one is in so many."""


class AuditLog:
    """Who saw, changed, accepted what, when, in ``review/audit.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = path.with_suffix(".head")
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, who: str, what: str, case_id: str = "", **details: Any) -> None:
        """Add one line and bring it to the disk. The count and hash of the end stand in a second file."""
        with FileLock(str(self.path) + ".lock"):
            self._mend()
            number, before = self._end()
            line = {
                "n": number + 1, "at": now(), "who": who, "what": what, "case": case_id, "details": details,
                "before": before,
            }  # fmt: skip
            line["sha256"] = _seal(line)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with write_atomically(self.head) as temporary:
                temporary.write_text(f"{number + 1} {line['sha256']}\n", encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """Everything that was logged, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(text) for text in self.path.read_text(encoding="utf-8").splitlines()]

    def verify(self) -> list[str]:
        """What is wrong with the log, one line each; empty when every line is as it was written and none is missing."""
        try:
            lines = self.lines()
        except ValueError as error:
            return [f"audit log: expected one JSON object a line in {self.path}, got {error}; restore it"]
        problems, before = [], _START
        for number, line in enumerate(lines, 1):
            if line.get("n") != number or line.get("before") != before or line.get("sha256") != _seal(line):
                problems.append(
                    f"audit log: expected line {number} of {self.path} as it was written, it was changed or lines are "
                    "missing; restore it"
                )
                break
            before = line["sha256"]
        if not problems and self._known_end() > len(lines):
            problems.append(
                f"audit log: expected {self._known_end()} lines in {self.path}, found {len(lines)}: its end is missing; "
                "restore it"
            )
        return problems

    def _mend(self) -> None:
        """Take away the beginning of a line that a full disk or a crash cut: nobody was told that it was written."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
            file.seek(start)
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(start + tail.rfind(b"\n") + 1)

    def _known_end(self) -> int:
        return int(self.head.read_text(encoding="utf-8").split()[0]) if self.head.exists() else 0

    def _end(self) -> tuple[int, str]:
        if not self.path.exists():
            return 0, _START
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - _LONGEST_LINE))
            last = file.read().splitlines()
        if not last:
            return 0, _START
        line = json.loads(last[-1])
        return int(line["n"]), str(line["sha256"])


def _seal(line: dict[str, Any]) -> str:
    body = {key: value for key, value in line.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
