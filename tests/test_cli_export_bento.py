"""``ctune export bento``, and a real ``bentoml serve`` on what it makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import small_serve as small

from ctune.errors import ModelError, UsageError
from ctune.serve.bento import INCLUDE, _copy_sources
from ctune.serve.bento_app import settings_of
from ctune.serve.exported import FolderSource
from registry import Registry

BIN = Path(sys.executable).parent


@dataclass
class Served:
    said: dict[str, Any]
    registry: Registry
    root: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A Bento in a store of its own, made by the command."""
    root = tmp_path_factory.mktemp("bento")
    registry = small.fill(root / "registry")
    env = {**os.environ, "BENTOML_HOME": str(root / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    words = ("export", "bento", "small@production", "--registry", str(root / "registry"), "--json")
    done = subprocess.run([BIN / "ctune", *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Served(json.loads(done.stdout), registry, root, env)


@pytest.fixture(scope="module")
def url(made: Served) -> Iterator[str]:
    port = small.free_port()
    words = ("serve", made.said["tag"], "--host", "127.0.0.1", "--port", str(port))
    # Away from the checkout: what runs comes from the Bento.
    with (made.root / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "bentoml", *words],
            env=made.env,
            cwd=made.root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield small.wait_for(f"http://127.0.0.1:{port}", "/model", process, made.root / "log")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def test_a_bento_has_an_explicit_version_refers_to_its_model_and_holds_no_training(made: Served) -> None:
    digest = made.registry.resolve("small@production")
    assert made.said["tag"] == f"small:1-{digest[:12]}" and made.said["runtime"] == "onnx"
    about = (Path(made.said["path"]) / "bento.yaml").read_text()
    assert f"- tag: {made.said['tag']}" in about
    here = {
        str(p.relative_to(Path(made.said["path"]) / "src")) for p in Path(made.said["path"]).rglob("*.py")
    }
    assert "ctune/serve/app.py" in here
    for name in (
        "ctune/train.py",
        "ctune/tune.py",
        "ctune/losses.py",
        "ctune/compositions.py",
        "cli",
    ):
        assert not any(path.startswith(name) for path in here), name
    assert [path for path in here if path.startswith("registry")] == ["registry/wal.py"]
    assert not any("*" in name and "*" not in name.rsplit("/", 1)[1] for name in INCLUDE)


def test_bentoml_serves_it_with_the_whole_api(made: Served, url: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        card = client.get("/model").json()
        assert card["runtime"] == "onnx" and card["card"]["classes"]["liver"]["round"] == 0
        answer = client.post("/segment", files={"file": small.ct_gz()}, data={"classes": "liver"})
        assert answer.status_code == 200 and "liver" in answer.headers["x-ctune-volumes-ml"]
        job = client.post("/jobs?classes=liver", content=small.ct_gz()).json()
        for _ in range(200):
            result = client.get(job["result"])
            if result.status_code != 409:
                break
        assert result.content == answer.content
        assert client.post("/segment", content=b"nonsense").status_code == 422
        assert "ctune_requests_total" in client.get("/metrics").text
        assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
    assert "path=" not in (made.root / "log").read_text(), "BentoML's own log of requests is off"


_ALONE = """
import sys
root, here = sys.argv[1:]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path = [here, *(path for path in sys.path if path not in ("", root))]
import ctune.serve.bento_app
found = {name: module.__file__ for name, module in sys.modules.items() if name.startswith(("ctune.", "registry."))}
assert all(file is None or file.startswith(here) for file in found.values()), found
assert "registry.wal" in found and "sqlalchemy" not in sys.modules
"""


def test_the_sources_of_a_bento_are_all_that_it_imports(tmp_path: Path) -> None:
    """Beside this checkout a Bento finds what it lacks; in a container it does not start."""
    _copy_sources(tmp_path)
    root = Path(__file__).resolve().parents[1]
    words = (sys.executable, "-c", _ALONE, str(root), str(tmp_path))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_bento_is_never_written_over(made: Served) -> None:
    words = ("export", "bento", "small:1", "--registry", str(made.root / "registry"))
    done = subprocess.run([BIN / "ctune", *words], env=made.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected a new version, the Bento small:1-" in done.stderr and "bentoml delete" in done.stderr


def test_an_exported_folder_that_was_changed_is_not_served(made: Served, tmp_path: Path) -> None:
    name, _, release = made.said["tag"].partition(":")
    folder = made.root / "bentoml" / "models" / name / release
    assert FolderSource(folder).resolve() == made.said["digest"]
    part = next((folder / "parts").iterdir())
    part.chmod(0o644)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(ModelError, match=r"expected the file .* as it was exported, got another"):
        FolderSource(folder)
    part.write_bytes(whole)
    with pytest.raises(UsageError, match=r"found no model\.json"):
        FolderSource(tmp_path)


def test_settings_of_the_environment(tmp_path: Path) -> None:
    found = settings_of({"CTUNE_STATE": str(tmp_path), "CTUNE_QUEUE": "3", "CTUNE_TIMEOUT": "9.5"})
    assert (found.state, found.queue, found.seconds) == (tmp_path, 3, 9.5)
    assert "127.0.0.1" in found.hosts
    with pytest.raises(UsageError, match="expected a number for CTUNE_QUEUE, got 'many'"):
        settings_of({"CTUNE_STATE": str(tmp_path), "CTUNE_QUEUE": "many"})
