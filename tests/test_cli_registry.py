"""The registry on the command line, on a project that went through one round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_network import project

from ctune.foundation import train_model
from ctune.round import start


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, truth = project(tmp_path_factory.mktemp("cli"), pool=3)
    digest, _ = train_model(made, "small", device=torch.device("cpu"))
    start(made, name="small", model=digest, classes=["aorta"], truth=truth)
    return made.root


def ctune(home: Path, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "cli.main", "registry", *words, "--project", str(home)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_list_and_show_and_verify(home: Path) -> None:
    code, out, _ = ctune(home, "list", "--json")
    assert code == 0 and "small" in out
    json.loads(out)
    code, out, _ = ctune(home, "show", "small:2", "--json")
    document = json.loads(out)
    assert code == 0 and {"liver", "spleen", "aorta"} <= set(json.dumps(document).replace('"', " ").split())
    code, out, _ = ctune(home, "verify", "--json")
    assert code == 0 and json.loads(out)["problems"] == []


def test_an_alias_is_set_and_resolved(home: Path) -> None:
    assert ctune(home, "alias", "small:1", "old")[0] == 0
    digests = [
        json.loads(ctune(home, "show", reference, "--json")[1]) for reference in ("small@old", "small:1")
    ]
    assert digests[0] == digests[1]


def test_a_reference_to_nothing_says_so(home: Path) -> None:
    code, out, err = ctune(home, "show", "small:9", "--json")
    assert code == 1 and "small:9" in err and json.loads(out)["error"]["type"] == "NotFoundError"


def test_a_damaged_blob_ends_with_exit_code_4(home: Path) -> None:
    blob = next(p for p in sorted((home / "registry" / "blobs").rglob("*")) if p.is_file())
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, out, _ = ctune(home, "verify", "--json")
    assert code == 4 and json.loads(out)["problems"]
    blob.write_bytes(whole)
    blob.chmod(0o444)
    assert ctune(home, "verify")[0] == 0
