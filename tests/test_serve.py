"""The service's API without a socket: what it takes, answers and tells."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_serve as small
import torch
from starlette.testclient import TestClient

from ctune.compositions import load_model
from ctune.data.nifti import read_case
from ctune.predict import masks_of, predict_case
from ctune.serve.app import build_app
from ctune.serve.model import load
from ctune.serve.parts import TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings
from registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return small.fill(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def service(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Service:
    source = RegistrySource(registry, "small@production")
    model = load(source, TorchLoader(source, torch.device("cpu")), source.resolve())
    return Service(model, Settings(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service)) as client:
        yield client


def image(data: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(__import__("gzip").decompress(data))


def expected(registry: Registry, folder: Path) -> dict[str, np.ndarray]:
    (folder / "ct.nii").write_bytes(small.ct())
    model = load_model(registry, "small@production", torch.device("cpu"))
    config = small.small.config()
    return masks_of(
        predict_case(model.network, read_case(folder / "ct.nii", "ct"), config, model=model.digest), 0.5
    )


def test_masks_are_those_of_the_engine_on_the_cts_own_grid(
    client: TestClient, registry: Registry, tmp_path: Path
) -> None:
    answer = client.post("/segment?output=masks", content=small.ct_gz())
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        found = {name: image(packed.read(name)) for name in packed.namelist()}
    for name, mask in expected(registry, tmp_path).items():
        got = found[f"{name}.nii.gz"]
        assert np.array_equal(np.asarray(got.dataobj), mask) and np.allclose(got.affine, small.GRID.affine)
        volume = json.loads(answer.headers["x-ctune-volumes-ml"])[name]
        assert volume == pytest.approx(mask.sum() * 0.012, abs=1e-3)


def test_a_form_chooses_classes_and_gets_a_label_map(client: TestClient) -> None:
    sent = {"file": ("../../etc/passwd", small.ct())}
    answer = client.post("/segment", files=sent, data={"classes": "spleen"})
    assert answer.status_code == 200, answer.text
    assert set(np.unique(np.asarray(image(answer.content).dataobj))) <= {0, 1}
    assert list(json.loads(answer.headers["x-ctune-volumes-ml"])) == ["spleen"]


def test_one_who_takes_parts_gets_the_digests_and_the_file(client: TestClient, service: Service) -> None:
    answer = client.post("/segment", content=small.ct_gz(), headers={"accept": "multipart/mixed"})
    boundary = answer.headers["content-type"].split('"')[1]
    _, about, file, _ = answer.content.split(f"--{boundary}".encode())
    told = json.loads(about.split(b"\r\n\r\n", 1)[1])
    assert told["model"] == f"sha256:{service.model.about.digest}"
    assert set(told["heads"]) == {"liver", "spleen"} and "network" in told["seconds"]
    assert image(file.split(b"\r\n\r\n", 1)[1][:-2]).shape == small.GRID.shape
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_the_card_names_base_heads_rounds_and_use(client: TestClient, service: Service) -> None:
    card = client.get("/model").json()
    assert card["name"] == "small@production" and card["card"]["classes"]["liver"]["round"] == 0
    assert card["heads"]["liver"] == f"sha256:{service.model.about.heads['liver']}"
    assert "Not a medical device" in card["intended_use"]


def test_metrics_count_requests_stages_and_classes(client: TestClient) -> None:
    client.post("/segment", content=small.ct_gz())
    text = client.get("/metrics").text
    assert 'ctune_requests_total{route="/segment",status="200"}' in text
    assert 'ctune_stage_seconds_total{stage="network"}' in text
    assert 'ctune_class_volumes_total{class_name="liver"}' in text and "ctune_queue_length 0.0" in text


def test_alive_and_ready(client: TestClient) -> None:
    assert client.get("/livez").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True}


def test_nothing_is_left_on_disk(client: TestClient, service: Service) -> None:
    client.post("/segment", content=small.ct_gz())
    client.post("/segment", content=b"nonsense")
    assert list(service.scratch.iterdir()) == []
