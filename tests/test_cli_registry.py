"""The registry on the command line, on a project that went through one round."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import small_registry
import torch
from small_network import config, network, project

from ctune import __version__
from ctune.compositions import register_model
from ctune.foundation import train_model
from ctune.model.text import text_vector
from ctune.project import open_project
from ctune.round import start
from registry import Registry


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


def document(home: Path, *words: str) -> dict[str, Any]:
    code, out, err = ctune(home, *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_every_command_answers_in_json(home: Path, tmp_path: Path) -> None:
    assert len(document(home, "log", "small")["models"]) == 2
    changes = {
        row["class_name"]: row["change"] for row in document(home, "diff", "small:1", "small:2")["classes"]
    }
    assert changes == {"aorta": "added", "liver": "same", "spleen": "same"}
    document(home, "compose", "small:1", "--head", "aorta=small:2", "--name", "best")
    assert document(home, "promote", "small:1", "--to", "live")["after"] == 1
    assert document(home, "promote", "small:2", "--to", "live", "--no-gate")["after"] == 2
    assert document(home, "rollback", "small@live")["after"] == 1
    archive, mirror, other = tmp_path / "small.ctune", tmp_path / "mirror", tmp_path / "other"
    document(home, "export", "small:2", str(archive))
    document(home, "push", str(mirror), "small:1")
    subprocess.run([sys.executable, "-m", "cli.main", "init", str(other)], check=True, capture_output=True)
    assert document(other, "import", str(archive))["version"] == 2
    assert document(other, "pull", str(mirror))["models"][0]["version"] == 1
    assert document(other, "gc")["dry"] is True
    assert document(other, "verify")["problems"] == []


def test_a_gate_that_says_no_ends_with_exit_code_3(home: Path) -> None:
    made = open_project(home).open_registry()
    for version, dice in ((1, 0.9), (2, 0.5)):
        small_registry.evaluate(made, made.resolve(f"small:{version}"), {"liver": [dice] * 8}, "gated")
    made.set_alias("small", "gated", 1)
    code, out, err = ctune(home, "promote", "small:2", "--to", "gated", "--gate", "--json")
    assert code == 3 and "liver 0.900 -> 0.500" in err
    assert json.loads(out)["error"]["type"] == "GateError"
    assert made.aliases("small")["small", "gated"] == 1
    for metric in ("hd95_mm", "outcome"):
        code, _, err = ctune(home, "promote", "small:2", "--to", "gated", "--metric", metric)
        assert (
            code == 3 and f"expected a gate on dice or nsd, got '{metric}'" in err and "Traceback" not in err
        )


def test_what_is_refused_ends_with_its_code_and_one_line(home: Path, tmp_path: Path) -> None:
    code, _, err = ctune(home, "compose", "small:1", "--head", "aorta=small:2", "--name", "../../x")
    assert code == 2 and "../../x" in err and "Traceback" not in err
    trap = tmp_path / "trap.tar"
    with tarfile.open(trap, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../x"))
    code, out, err = ctune(home, "import", str(trap), "--json")
    assert code == 1 and json.loads(out)["error"]["type"] == "ArchiveError" and "'../../x'" in err
    registry = open_project(home).open_registry()
    head = registry.load("small:2").heads["aorta"].weights
    blob = small_registry.blob_path(registry, home / "registry", head)
    whole = blob.read_bytes()
    blob.unlink()
    code, _, err = ctune(home, "export", "small:2", str(tmp_path / "small.tar"))
    assert code == 4 and f"expected the blob sha256:{head[:12]}" in err
    assert not (tmp_path / "small.tar").exists()
    assert registry.put(whole) == head and registry.verify().clean


def test_a_head_of_a_round_says_how_it_came_to_be(home: Path) -> None:
    made = open_project(home)
    registry = made.open_registry()
    model = registry.load("small:2")
    record, before = model.heads["aorta"], registry.load("small:1")
    assert (record.class_name, record.head_kind, record.round) == ("aorta", "pyramid", 1)
    assert record.base == before.record.base and record.base_fingerprint == before.base.fingerprint
    assert record.parent is None and record.settings and record.seed == made.config.seed + 1
    assert record.code_version == __version__
    assert record.annotations and record.experts == tuple(sorted({a.author for a in record.annotations}))
    for used in record.annotations:
        assert used.class_name == "aorta" and used.source == "revised" and used.round == 1
        assert used.sha256 in {kept.sha256 for kept in made.pool.annotations(used.case_id, "aorta")}
    measured = registry.measured(model.record.heads["aorta"])
    assert measured["seconds"] > 0 and measured["device"] == "cpu"


def test_a_text_head_records_the_vector_it_was_made_with(tmp_path: Path) -> None:
    registry, settings = Registry.open(tmp_path), config()
    register_model(registry, "text", network(), settings, {})
    liver, spleen = (registry.load("text").heads[name] for name in ("liver", "spleen"))
    vector = text_vector("liver").astype("<f4").tobytes()
    assert liver.text_vector == hashlib.sha256(vector).hexdigest() != spleen.text_vector
