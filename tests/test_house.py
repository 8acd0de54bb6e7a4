"""House rules that a machine can hold: nothing unpickles, the library does not print."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "joblib",
    "cloudpickle",
    "shelve",
    "marshal",
    "pickletools",
}
# Put together from pieces, so that this file does not hold them itself.
NOT_IN_FILES = tuple(
    "".join(p) for p in (("/wo", "rk/"), ("/ro", "ot/"), ("TO", "DO"), ("FIX", "ME"), ("XX", "X "))
)


def files_of_the_project() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("the list of the project's files comes from git, and this is not a checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def code_files() -> list[Path]:
    return [path for path in files_of_the_project() if path.suffix == ".py"]


def library_files() -> list[Path]:
    return [p for p in code_files() if p.relative_to(ROOT).parts[0] in ("ctune", "registry")]


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call with its dotted name as written, e.g. ``torch.load``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def unsafe(source: str) -> list[str]:
    """What could run code from a file: pickle imports, torch.load without weights_only, numpy pickles."""
    bad = []
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        bad += [f"imports {n}" for n in names if n.split(".")[0] in PICKLERS]
    for name, call in calls(source):
        if name == "torch.load" and keyword(call, "weights_only") != "True":
            bad.append(f"line {call.lineno}: torch.load without weights_only=True")
        if keyword(call, "allow_pickle") not in (None, "False"):
            bad.append(f"line {call.lineno}: allow_pickle is not False")
        if re.fullmatch(r"(pd|pandas)\.read_pickle", name):
            bad.append(f"line {call.lineno}: {name}")
    return bad


def test_nothing_unpickles() -> None:
    assert {str(p): bad for p in code_files() if (bad := unsafe(p.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_loading_is_found(source: str) -> None:
    assert unsafe(source)


def test_safe_loading_is_left_alone() -> None:
    assert (
        unsafe("torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nsafetensors.torch.load(b)")
        == []
    )


def test_weights_are_not_written_with_torch_save() -> None:
    bad = [
        p for p in library_files() if any(n == "torch.save" for n, _ in calls(p.read_text(encoding="utf-8")))
    ]
    assert bad == []


def test_the_library_never_prints_parses_or_exits() -> None:
    bad = []
    for path in library_files():
        for name, call in calls(path.read_text(encoding="utf-8")):
            if name in (
                "print",
                "exit",
                "quit",
                "sys.exit",
                "os._exit",
                "argparse.ArgumentParser",
                "typer.Typer",
            ):
                bad.append(f"{path.relative_to(ROOT)}:{call.lineno} calls {name}")
    assert bad == []


def test_files_hold_nothing_of_one_machine_and_nothing_unfinished() -> None:
    bad = []
    for path in files_of_the_project():
        if path.suffix in (".safetensors", ".png", ".gz"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        bad += [f"{path.relative_to(ROOT)}: {word}" for word in NOT_IN_FILES if word in text]
    assert bad == []


def test_no_file_is_large() -> None:
    large = [
        f"{p.relative_to(ROOT)}: {p.stat().st_size} bytes"
        for p in files_of_the_project()
        # What others wrote and the review page serves as it is, beside its licence.
        if p.stat().st_size > 2**20 and p.parent.name != "vendor"
    ]
    assert large == []
