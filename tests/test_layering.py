"""Imports run one way, cli -> ctune -> registry, and inside ctune from the round down to the words."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ctune", "cli", "registry")
HEAVY = ("torch", "monai")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("ctune", "ctune.errors", "ctune.types", "ctune.classes", "ctune.presets", "ctune.config"),
    ("ctune.data", "ctune.model", "ctune.losses", "ctune.executors"),
    (
        "ctune.project",
        "ctune.cohort",
        "ctune.compositions",
        "ctune.foundation",
        "ctune.continual",
        "ctune.meanwhile",
        "ctune.strategy",
        "ctune.replay",
        "ctune.outcome",
        "ctune.global_features",
        "ctune.pool_work",
        "ctune.recompose",
        "ctune.validate",
        "ctune.watch",
        "ctune.optimise",
        "ctune.inference",
        "ctune.postprocess",
        "ctune.predict",
        "ctune.export",
        "ctune.importance",
        "ctune.segmenter",
        "ctune.select",
        "ctune.hybrid",
        "ctune.train",
        "ctune.distributed",
        "ctune.interrupts",
        "ctune.prefetch",
        "ctune.stop",
        "ctune.subpatches",
        "ctune.tune",
        "ctune.evaluate",
        "ctune.expert",
        "ctune.exported",
        "ctune.revise",
    ),
    ("ctune.round",),
    ("ctune.report", "ctune.demo", "ctune.bench", "ctune.review", "ctune.serve"),
)
"""The words, what handles values and files, the verbs, the round, what looks at rounds."""

KNOW_THE_REGISTRY = (
    "ctune.project",
    "ctune.compositions",
    "ctune.meanwhile",
    "ctune.recompose",
    "ctune.round",
    "ctune.bench",
    "ctune.serve",
)
"""What opens a project's registry, what turns a network into records and back, the order of a round, what measures it, what serves it."""

SHARED_HELPERS = ("registry.wal",)
"""Of the registry's modules those that say nothing of models: anybody may use them."""

WITHOUT_TORCH = (
    "cli",
    "registry",
    *(m for m in LAYERS[0] if m != "ctune"),
    "ctune.data",
    "ctune.executors",
    "ctune.project",
    "ctune.importance",
    "ctune.postprocess",
    "ctune.select",
    "ctune.hybrid",
    "ctune.evaluate",
    "ctune.exported",
    "ctune.revise",
    "ctune.report",
    "ctune.bench.catalogue",
    "ctune.bench.energy",
    "ctune.bench.every",
    "ctune.bench.machine",
    "ctune.bench.parts",
    "ctune.bench.result",
    "ctune.bench.run",
    "ctune.bench.statistics",
    "ctune.bench.registry",
)
"""Imported before anybody knows whether torch is needed: these import it inside a function."""


@dataclass(frozen=True)
class Import:
    importer: str
    target: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import of a file that happens when it runs: those under TYPE_CHECKING do not."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                full = f"{origin}.{name.name}"
                yield Import(module, full if full in known else origin, node.lineno, at_top)
        inner = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def all_imports(root: Path) -> list[Import]:
    known = modules(root)
    return [found for name, path in known.items() for found in imports(name, path, known)]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int | None:
    for number, names in enumerate(LAYERS):
        if any(module == name or (name != "ctune" and inside(module, name)) for name in names):
            return number
    return None


def wrong_way(found: list[Import]) -> list[str]:
    """Imports against the direction, as lines of text."""
    bad = []
    for one in found:
        importer, target = one.importer, one.target
        if inside(importer, "registry") and any(inside(target, p) for p in ("ctune", "cli", *HEAVY)):
            bad.append(f"{one}: the registry is a leaf that knows neither ctune nor torch")
            continue
        if inside(importer, "ctune") and inside(target, "cli"):
            bad.append(f"{one}: the library does not know its command line")
        speaks = any(inside(importer, m) for m in KNOW_THE_REGISTRY)
        if (
            inside(importer, "ctune")
            and inside(target, "registry")
            and not speaks
            and target not in SHARED_HELPERS
        ):
            bad.append(f"{one}: only the round and its compositions speak to the registry")
        low, high = layer(importer), layer(target)
        if low is not None and high is not None and low < high:
            bad.append(f"{one}: a lower layer imports a higher one")
        heavy = target.split(".")[0] in HEAVY
        if one.at_top and heavy and (importer == "ctune" or any(inside(importer, m) for m in WITHOUT_TORCH)):
            bad.append(f"{one} at the top: import it inside the function that uses it")
    return bad


def cycle(found: list[Import]) -> list[str] | None:
    """One chain of modules that ends where it starts, or None."""
    graph: dict[str, set[str]] = {}
    for one in found:
        if one.target.split(".")[0] in PACKAGES and one.target != one.importer:
            graph.setdefault(one.importer, set()).add(one.target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in sorted(graph.get(module, ())):
            if chain := visit(target, [*path, module]):
                return chain
        done.add(module)
        return None

    for module in sorted(graph):
        if chain := visit(module, []):
            return chain
    return None


def test_imports_run_one_way() -> None:
    assert wrong_way(all_imports(ROOT)) == []


def test_no_import_cycles() -> None:
    assert cycle(all_imports(ROOT)) is None


def test_every_module_of_ctune_has_a_layer() -> None:
    missing = [name for name in modules(ROOT) if inside(name, "ctune") and layer(name) is None]
    assert missing == [], "put the module into LAYERS in this file"


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("registry/store.py", "import torch", "the registry is a leaf"),
        ("registry/store.py", "def f():\n    from ctune import types", "the registry is a leaf"),
        ("ctune/hybrid.py", "import cli.main", "does not know its command line"),
        ("ctune/tune.py", "from registry.store import Store", "only the round and its compositions"),
        ("ctune/data/pool.py", "from ctune.round import start", "a lower layer"),
        ("ctune/evaluate.py", "from monai.metrics import compute_dice", "inside the function"),
        ("cli/tune.py", "class A:\n    import torch", "inside the function"),
    ],
)
def test_the_reading_of_imports_finds_what_it_should(
    tmp_path: Path, path: str, source: str, complaint: str
) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)
    (tmp_path / "ctune").mkdir(exist_ok=True)
    (tmp_path / "ctune" / "round.py").write_text("")
    (line,) = wrong_way(all_imports(tmp_path))
    assert complaint in line


def test_the_reading_of_imports_leaves_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "ctune").mkdir()
    (tmp_path / "ctune" / "round.py").write_text("import registry.store\nfrom ctune import tune\n")
    (tmp_path / "ctune" / "tune.py").write_text("import torch\nif TYPE_CHECKING:\n    import ctune.round\n")
    (tmp_path / "ctune" / "evaluate.py").write_text("def score():\n    import monai\n")
    found = all_imports(tmp_path)
    assert wrong_way(found) == []
    assert cycle(found) is None


def test_a_cycle_is_named(tmp_path: Path) -> None:
    (tmp_path / "ctune").mkdir()
    (tmp_path / "ctune" / "train.py").write_text("from ctune import tune")
    (tmp_path / "ctune" / "tune.py").write_text("def f():\n    from .train import run")
    assert cycle(all_imports(tmp_path)) == ["ctune.train", "ctune.tune", "ctune.train"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    done = run_python(
        "import sys\nfrom cli.main import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('loaded:', sorted({'torch', 'monai', 'numpy', 'pydantic', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_no_command_module_imports_torch() -> None:
    done = run_python(
        "import sys\nfrom cli import main\nfor command in main.COMMANDS:\n    main.load(command)\n"
        "print('loaded:', sorted({'torch', 'monai'} & set(sys.modules)))"
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded: []"
