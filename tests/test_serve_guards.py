"""What the service refuses, stops, hides and cleans up."""

from __future__ import annotations

import dataclasses
import gzip
import io
import logging
import struct
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_serve as small
import torch
from small_images import a_bomb
from starlette.testclient import TestClient

from ctune.config import Preprocessing
from ctune.data.nifti import header_bytes
from ctune.errors import ConfigError, UsageError
from ctune.serve.app import build_app
from ctune.serve.faults import Refused
from ctune.serve.intake import Limits, check_reach
from ctune.serve.model import ServedModel, load
from ctune.serve.parts import Part, TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings
from ctune.serve.tokens import Tokens, add_token, read_tokens
from ctune.types import Case, Grid

LIMITS = Limits(upload_bytes=100_000, voxels=50_000, axis=100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    source = RegistrySource(small.fill(tmp_path_factory.mktemp("registry")), "small@production")
    return load(source, TorchLoader(source, torch.device("cpu")), source.resolve())


@pytest.fixture(scope="module")
def service(model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Service:
    tokens = Tokens({"ada": small.hashed("secret"), "bob": small.hashed("other")})
    settings = Settings(
        tmp_path_factory.mktemp("state"), LIMITS, queue=2, seconds=20, upload_seconds=5, tokens=tokens
    )
    return Service(model, settings)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service), headers={"authorization": "Bearer secret"}) as client:
        yield client


@pytest.fixture
def slow(service: Service, model: ServedModel) -> Iterator[dict[str, Any]]:
    """The same model, a tenth of a second a window, counted, and held while `held` is set."""
    seen: dict[str, Any] = {"windows": 0, "free": threading.Event()}

    def run(windows: torch.Tensor, needs: frozenset[str]) -> Any:
        seen["windows"] += 1
        seen["free"].wait(0.1)
        return model.base.run(windows, needs)

    service.model = dataclasses.replace(model, base=Part(model.base.digest, run))
    yield seen
    seen["free"].set()
    service.model = model


def with_settings(service: Service, **changes: Any) -> Settings:
    before, service.settings = service.settings, dataclasses.replace(service.settings, **changes)
    return before


def test_without_a_token_nothing_of_a_model_is_told(client: TestClient) -> None:
    for header in ("", "Bearer wrong", "Basic secret", "secret", "Bearer s\u00e9cret"):
        answer = client.get("/model", headers={"authorization": header.encode()})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", header
        assert "expected a token of this service" in answer.json()["error"]
    assert client.get("/model", headers={"authorization": "bearer other"}).status_code == 200
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path, headers={"authorization": ""}).status_code == 200


def test_tokens_are_kept_as_hashes_and_a_new_one_ends_the_old(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    old, other, new = (add_token(path, name) for name in ("ada", "bob", "ada"))
    known = read_tokens(path)
    assert [known.who(f"Bearer {t}") for t in (old, other, new)] == [None, "bob", "ada"]
    assert new not in path.read_text() and path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="make one with `ctune serve --add-token NAME"):
        read_tokens(tmp_path / "none.json")
    path.write_text('{"ada": "secret"}')
    with pytest.raises(ConfigError, match=r"expected \{name: sha256\}"):
        read_tokens(path)


def nifti(shape: tuple[int, ...], first_axis: float = -2.0, code: int = 4) -> bytearray:
    """A header of int16 voxels; `first_axis` is where the sform sends a step along X."""
    head = bytearray(header_bytes(Grid((2, 2, 2), np.diag([-2.0, 2.0, 3.0, 1.0])), np.int16))
    struct.pack_into("<8h", head, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<h", head, 70, code)
    struct.pack_into("<f", head, 280, first_axis)
    return head


def zipped(data: bytes) -> bytes:
    """An archive of one file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", data)
    return packed.getvalue()


BAD = {
    "nothing": (b"", 422, "got nothing"),
    "no image": (b"hello" * 200, 422, "expected a NIfTI image (.nii or .nii.gz)"),
    "a header alone": (bytes(nifti((8, 8, 8))), 422, "expected 1376 bytes of image, got 352"),
    "four dimensions": (bytes(nifti((4, 4, 4, 3))) + bytes(400), 422, "got shape (4, 4, 4, 3)"),
    "no dimension": (bytes(nifti(())) + bytes(400), 422, "expected a three-dimensional image"),
    "a negative side": (bytes(nifti((4, -4, 4))) + bytes(400), 422, "expected a three-dimensional image"),
    "too many voxels": (gzip.compress(bytes(nifti((99, 99, 99)))), 413, "expected at most 50000 voxels"),
    "too long an axis": (bytes(nifti((101, 2, 2))), 413, "100 along an axis"),
    "a gzip bomb": (gzip.compress(bytes(nifti((8, 8, 8))) + bytes(50_000_000)), 422, "got more"),
    "a cut gzip": (small.ct_gz()[:-2000], 422, "got one that is none, cut short or damaged"),
    "a flipped checksum": (small.ct_gz()[:-8] + b"\0" * 8, 422, "damaged (BadGzipFile)"),
    "not a number": (small.ct(dtype=np.float32)[:-4] + b"\xff" * 4, 422, "NaN or infinite voxels in the upload"),
    "no spacing": (bytes(nifti((8, 8, 8), 0.0)) + bytes(1024), 422, "three independent axes"),
    "an unknown type": (bytes(nifti((8, 8, 8), code=9999)) + bytes(1024), 422, "none, cut short or damaged (KeyError)"),
    "too much": (bytes(120_000), 413, "expected at most 100000 bytes"),
    "a zip of nearly DICOM": (zipped(bytes(128) + b"DICM" + b"\2\0\0\0UL\xff"), 422, "expected one DICOM series"),
    "a broken zip": (b"PK\x03\x04" + b"x" * 500, 422, "zip archive"),
    "a vast NRRD": (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9999 9999 9999\n\n", 413, "at most 50000 voxels"),
    "a detached NRRD": (b"NRRD0004\ndata file: /etc/passwd\n\n", 422, "names another"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_refused_in_one_line_without_a_path(
    client: TestClient, service: Service, name: str
) -> None:
    data, status, text = BAD[name]
    answer = client.post("/segment", content=data)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
    assert str(service.settings.state) not in answer.text and "Traceback" not in answer.text
    assert list(service.scratch.iterdir()) == []


def test_a_deflated_dicom_bomb_is_refused_unseen(
    client: TestClient, service: Service, tmp_path: Path
) -> None:
    """Some kilobytes that pydicom would unpack to 128 MiB before it had looked at any header."""
    a_bomb(tmp_path / "series", 64 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, path.name)
    assert len(packed.getvalue()) < 20_000
    tracemalloc.start()
    try:
        answer = client.post("/segment", content=packed.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert answer.status_code == 422, answer.text
    assert "got one in the transfer syntax Deflated Explicit VR; export the series" in answer.json()["error"]
    assert list(service.scratch.iterdir()) == []


def test_an_upload_without_its_length_is_counted_as_it_comes(client: TestClient) -> None:
    answer = client.post("/segment", content=(bytes(10_000) for _ in range(20)))
    assert answer.status_code == 413


def test_a_spacing_of_kilometres_would_be_a_huge_network_grid() -> None:
    case = Case("upload", np.zeros((8, 8, 8), np.float32), Grid((8, 8, 8), np.diag([1e6, 1e6, 1e6, 1])))
    with pytest.raises(
        Refused, match=r"expected a CT of at most 50000 voxels of 1.5 mm, got one of .* correct its header"
    ):
        check_reach(case, Preprocessing(), LIMITS)


def test_unknown_classes_outputs_and_routes(client: TestClient) -> None:
    for query, text in (
        ("classes=livr", "did you mean 'liver'"),
        ("output=png", "expected an output of multilabel"),
    ):
        answer = client.post(f"/segment?{query}", content=small.ct_gz())
        assert answer.status_code == 422 and text in answer.json()["error"], answer.text
    assert client.post("/segment?output=dicom-seg", content=small.ct_gz()).status_code == 422
    assert client.get("/nowhere").json()["error"] == "not found"
    assert client.get("/segment").status_code == 405


def test_a_request_has_an_id_the_clients_own_if_it_is_plain(client: TestClient) -> None:
    assert client.get("/livez", headers={"x-request-id": "ward-7.1"}).headers["x-request-id"] == "ward-7.1"
    strange = client.get("/nowhere", headers={"x-request-id": "a\tb<script>"})
    assert len(strange.headers["x-request-id"]) == 32 == len(strange.json()["request"])


def test_a_full_queue_says_when_to_come_again_and_loses_nobody(
    client: TestClient, slow: dict[str, Any]
) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: client.post("/segment", content=small.ct_gz(n)), range(6)))
    codes = sorted(a.status_code for a in answers)
    assert set(codes) == {200, 429} and codes.count(200) >= 3, codes
    refused = next(a for a in answers if a.status_code == 429)
    assert (
        int(refused.headers["retry-after"]) >= 1
        and "at most 2 volumes in the queue" in refused.json()["error"]
    )


def test_work_that_takes_too_long_is_stopped_between_windows(
    client: TestClient, service: Service, slow: dict[str, Any]
) -> None:
    before = with_settings(service, seconds=0.15)
    try:
        answer = client.post("/segment", content=small.ct_gz())
    finally:
        service.settings = before
    assert answer.status_code == 504 and "send the volume to /jobs" in answer.json()["error"]
    ran = slow["windows"]
    time.sleep(0.3)
    assert slow["windows"] == ran < 4 and list(service.scratch.iterdir()) == []
    assert client.get("/readyz").status_code == 200


def test_a_fault_of_the_service_is_told_without_its_inside(
    client: TestClient, service: Service, model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(windows: torch.Tensor, needs: frozenset[str]) -> Any:
        raise RuntimeError("John Doe in /home/secret")

    service.model = dataclasses.replace(model, base=Part(model.base.digest, broken))
    with caplog.at_level(logging.INFO, "ctune.serve"):
        answer = client.post("/segment", content=small.ct_gz(), headers={"x-request-id": "x1"})
    service.model = model
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "the service failed; its log tells more under this request's id",
        "request": "x1",
    }
    assert "request=x1 RuntimeError at broken" in caplog.text and "John" not in caplog.text


def test_the_log_tells_nothing_that_a_client_wrote(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "ctune.serve"):
        client.post(
            "/segment?note=DOE",
            files={"file": ("DOE^JOHN.nii.gz", small.ct_gz())},
            headers={"x-patient": "DOE"},
        )
        client.get("/jobs/DOE")
        client.get("/DOE")
    assert "DOE" not in caplog.text and "POST /segment status=200" in caplog.text


def test_what_a_killed_process_left_is_gone_and_a_folder_has_one_service(
    model: ServedModel, service: Service, tmp_path: Path
) -> None:
    left = tmp_path / "scratch" / "abc" / "ct.nii"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"patient")
    first = Service(model, Settings(tmp_path))
    assert not left.exists()
    with pytest.raises(UsageError, match="another one uses it; give --state another folder"):
        Service(model, Settings(tmp_path))
    first.start()
    first.close()
    assert not (tmp_path / "scratch").exists()


def test_no_answer_tells_where_the_services_folder_lies(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a folder that was named from here, and of one with blanks."""
    monkeypatch.chdir(tmp_path)
    service = Service(model, Settings(Path("ctune serve (1)/state"), limits=LIMITS))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("../../a.dcm", b"x" * 500)
    with TestClient(build_app(service)) as client:
        for data in (BAD["not a number"][0], zipped.getvalue(), bytes(nifti((8, 8, 8), 0.0)) + bytes(1024)):
            answer = client.post("/segment", content=data).json()["error"]
            assert "upload" in answer and "state" not in answer and "serve" not in answer, answer
            job = client.post("/jobs", content=data)
            while (found := client.get(f"/jobs/{job.json()['id']}").json())["state"] in ("queued", "running"):
                time.sleep(0.01)
            assert found["state"] == "failed" and "serve" not in found["error"], found


def test_without_tokens_only_the_services_own_names_are_answered(model: ServedModel, tmp_path: Path) -> None:
    service = Service(model, Settings(tmp_path, hosts=("127.0.0.1",)))
    with TestClient(build_app(service), base_url="http://127.0.0.1:3000") as client:
        assert client.get("/model").status_code == 200
        assert client.get("/model", headers={"host": "evil.example"}).status_code == 421


def test_an_ipv6_address_is_a_name_too(model: ServedModel, tmp_path: Path) -> None:
    service = Service(model, Settings(tmp_path, hosts=("localhost", "[::1]")))
    with TestClient(build_app(service)) as client:
        for host in ("[::1]:3000", "[::1]", "localhost:3000", "localhost"):
            assert client.get("/model", headers={"host": host}).status_code == 200, host
        for host in (
            "",
            "::1",
            "[::1",
            "[::1]x",
            "[::1].evil.example",
            "[::1]:x",
            "localhost.evil.example:3000",
        ):
            assert client.get("/model", headers={"host": host}).status_code == 421, host
