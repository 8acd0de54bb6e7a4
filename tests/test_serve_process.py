"""The service as a process: the examples of its page, clients that go, a kill, what it says on stderr."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import small_serve as small
from small_sets import SHARED

from ctune.types import Grid

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LONG = Grid((110, 110, 110), np.diag([-1.0, 1.0, 1.0, 1.0]))


class Running:
    """``ctune serve`` with tokens, in a folder of its own; started again on the same folder and port."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, small.free_port()
        self.registry = small.fill(root / "registry")
        said = self.ctune("serve", "--add-token", "ward-7", "--tokens", "tokens.json", "--json")
        self.token = json.loads(said)["token"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root / "log"
        self.start()

    def ctune(self, *words: str) -> str:
        return subprocess.run(
            [BIN / "ctune", *words], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout

    def start(self) -> None:
        command = [
            BIN / "ctune",
            "serve",
            "small@production",
            "--registry",
            "registry",
            "--tokens",
            "tokens.json",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--state", "state", "--poll", "0.2"],
                cwd=self.root, stdout=log, stderr=log,
            )  # fmt: skip
        small.wait_for(self.url, "/readyz", self.process, self.log)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("serve"))
    (made.root / "ct.nii.gz").write_bytes(small.ct_gz())
    yield made
    made.process.terminate()
    made.process.wait(30)


def examples(language: str, section: str) -> str:
    text = (ROOT / "docs" / "service.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return str(block)


def environment(running: Running) -> dict[str, str]:
    return {**os.environ, "TOKEN": running.token, "PATH": f"{BIN}:{os.environ['PATH']}"}


def test_the_curl_examples_run_as_written(running: Running) -> None:
    lines = [line[2:] for line in examples("console", "Ask").splitlines() if line.startswith("$ ")]
    script = "set -euo pipefail\n" + "\n".join(lines).replace("http://127.0.0.1:3000", running.url)
    done = subprocess.run(
        ["bash", "-c", script], cwd=running.root, env=environment(running), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '{"liver": ' in done.stdout and "ctune_queue_length 0.0" in done.stdout
    assert (running.root / "liver.seg.nrrd").read_bytes().startswith(b"NRRD")


def test_the_python_example_runs_as_written(running: Running) -> None:
    code = examples("python", "Ask").replace("http://127.0.0.1:3000", running.url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=running.root, env=environment(running), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small@production {'liver': ") and (running.root / "all.nii.gz").is_file()


def test_an_alias_that_moves_is_noticed(running: Running) -> None:
    digest = small.next_round(running.registry, ["liver"])
    running.registry.set_alias("small", "production", 2)
    with running.client() as client:
        for _ in range(100):
            card = client.get("/model").json()
            if card["model"] == f"sha256:{digest}":
                break
            time.sleep(0.1)
        assert card["swaps"][-1]["loaded"] == ["liver"], card
        assert client.post("/segment", content=small.ct_gz()).headers["x-ctune-model"] == f"sha256:{digest}"


def test_a_client_that_goes_stops_its_work(running: Running) -> None:
    data = gzip.compress(small.ct(grid=LONG), 1)
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.token}\r\nX-Request-Id: gone\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as line:
        line.sendall(head.encode() + data)
        time.sleep(0.5)
    with running.client() as client:
        begun = time.monotonic()
        assert client.post("/segment", content=small.ct_gz()).status_code == 200
        assert time.monotonic() - begun < 30
    assert "request=gone POST /segment status=499" in running.log.read_text()


def test_a_patients_name_that_a_library_warns_of_is_not_on_stderr(running: Running) -> None:
    series = sorted((SHARED / "dcmqi_ct3slice").glob("0*.dcm"))
    if not series:
        pytest.skip("shared/data/dcmqi_ct3slice is not here")
    import pydicom

    packed, name = io.BytesIO(), ""
    with zipfile.ZipFile(packed, "w") as archive:
        for path in series:
            archive.write(path, path.name)
            name = str(pydicom.dcmread(path, stop_before_pixels=True).PatientName)
    with running.client() as client:
        answer = client.post("/segment?output=dicom-seg", content=packed.getvalue())
    assert answer.status_code in (200, 422), answer.text
    assert name and name not in running.log.read_text()


def test_whatever_the_openapi_document_allows_is_no_error_of_the_service(running: Running) -> None:
    words = ("run", f"{running.url}/openapi.json", "--header", f"Authorization: Bearer {running.token}")
    checks = (
        "--checks",
        "not_a_server_error",
        "--max-examples",
        "2",
        "--seed",
        "0",
        "--phases",
        "examples,fuzzing",
        "--no-color",
    )
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *words, *checks], cwd=running.root, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "10/10" in done.stdout, "every operation was asked"


def test_killed_in_the_middle_of_a_job_it_ends_the_job_after_a_restart(running: Running) -> None:
    with running.client() as client:
        job = client.post("/jobs", content=gzip.compress(small.ct(grid=LONG), 1)).json()["id"]
        while (state := client.get(f"/jobs/{job}").json()["state"]) == "queued":
            time.sleep(0.02)
        assert state == "running"
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(10)
    left = [path for path in (running.root / "state" / "scratch").rglob("*") if path.is_file()]
    assert left, "killed in the middle of its work"
    running.start()
    assert not any(path.exists() for path in left)
    with running.client() as client:
        found: dict[str, Any] = {"state": "queued"}
        for _ in range(600):
            found = client.get(f"/jobs/{job}").json()
            if found["state"] in ("done", "failed"):
                break
            time.sleep(0.1)
        assert (found["state"], found["attempts"]) == ("done", 2)
        assert client.get(f"/jobs/{job}/result").status_code == 200


def test_it_ends_when_asked_and_leaves_no_image(running: Running) -> None:
    running.process.terminate()
    assert running.process.wait(30) in (0, -signal.SIGTERM)
    names = {path.name for path in (running.root / "state").iterdir()}
    assert "scratch" not in names and {"graphs", "jobs", "lock"} <= names


def test_the_loopback_address_of_ipv6_is_answered(running: Running) -> None:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    words = (
        "serve",
        "small",
        "--registry",
        "registry",
        "--state",
        "ipv6",
        "--runtime",
        "torch",
        "--host",
        "::1",
        "--port",
        "0",
    )
    with running.log.open("ab") as log:
        process = subprocess.Popen(
            [BIN / "ctune", *words], cwd=running.root, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        said = re.fullmatch(r"small at (http://\[::1\]:\d+)\n", process.stdout.readline())
        assert said is not None
        small.wait_for(said[1], "/model", process, running.log)
    finally:
        process.terminate()
        process.wait(30)
