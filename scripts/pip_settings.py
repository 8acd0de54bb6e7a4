"""Write pip's settings of this machine to a file, and print the volumes that a build needs to follow them.

usage: python3 scripts/pip_settings.py PIP_CONF
Prints one argument of `buildah bud` for each local folder that they name: wheels, index, certificates.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path


def settings() -> dict[str, str]:
    """Settings by name; environment variables win over files, as in pip itself."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    pairs = [line.partition("=")[::2] for line in listed.splitlines() if "=" in line]
    by_name: dict[str, str] = {}
    for key, value in sorted(pairs, key=lambda pair: pair[0].startswith(":env:")):
        section, _, name = key.rpartition(".")
        if section in ("global", "install", ":env:"):
            by_name[name] = str(ast.literal_eval(value))
    return by_name


def local_folders(values: dict[str, str]) -> list[Path]:
    """Folders of this machine that the settings point at, without those inside another."""
    found = set()
    for word in " ".join(values.values()).split():
        path = Path(re.sub(r"^file://", "", word))
        if path.is_absolute() and path.exists():
            # A local index may point at files beside it, so the whole folder above it comes along.
            found.add(path.parent if word.startswith("file://") or path.is_file() else path)
    return sorted(p for p in found if not any(other in p.parents for other in found))


def main() -> None:
    values = settings()
    lines = [f"{name} = {' '.join(value.split())}\n" for name, value in sorted(values.items())]
    Path(sys.argv[1]).write_text("[global]\n" + "".join(lines), encoding="utf-8")
    for folder in local_folders(values):
        print(f"--volume={folder}:{folder}:ro")


if __name__ == "__main__":
    main()
