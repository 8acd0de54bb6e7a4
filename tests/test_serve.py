"""The service's API without a socket: what it takes, answers and tells."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import small_serve as small
import torch
from small_sets import SHARED
from starlette.routing import Route
from starlette.testclient import TestClient

from ctune.compositions import load_model
from ctune.data.exchange import read_segmentation
from ctune.data.nifti import read_case
from ctune.data.nrrd import write_nrrd
from ctune.predict import masks_of, predict_case
from ctune.serve.app import build_app
from ctune.serve.model import load
from ctune.serve.parts import TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.segment import Output
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
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


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


def test_importance_is_that_of_ctune_score(client: TestClient) -> None:
    answer = client.post("/importance?classes=spleen", content=small.ct_gz())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    (spleen,) = told["importance"].values()
    assert told["score"] == pytest.approx(spleen["score"]) and spleen["reason"].startswith("spleen: ")
    assert told["order"] == ["spleen"] and told["volumes_ml"]["spleen"] == spleen["volume_ml"]
    heat = client.post("/importance?classes=spleen&output=attention", content=small.ct_gz())
    assert image(heat.content).shape == small.GRID.shape
    wrong = client.post("/importance?output=masks", content=small.ct_gz())
    assert wrong.json()["error"] == "expected an output of json, attention, got 'masks'"


def test_nrrd_in_and_seg_nrrd_out(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "ct.nii").write_bytes(small.ct())
    write_nrrd(tmp_path / "ct.nrrd", [np.asarray(nib.load(tmp_path / "ct.nii").dataobj)], small.GRID)
    masks = client.post("/segment?output=masks", content=small.ct_gz())
    answer = client.post("/segment?output=seg.nrrd", content=(tmp_path / "ct.nrrd").read_bytes())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ctune-volumes-ml"] == masks.headers["x-ctune-volumes-ml"]
    (tmp_path / "found.seg.nrrd").write_bytes(answer.content)
    found = read_segmentation(tmp_path / "found.seg.nrrd", small.GRID)
    with zipfile.ZipFile(io.BytesIO(masks.content)) as packed:
        for name, mask in found.items():
            assert np.array_equal(mask, np.asarray(image(packed.read(f"{name}.nii.gz")).dataobj))


def test_a_zipped_series_in_and_a_dicom_segmentation_out(client: TestClient, tmp_path: Path) -> None:
    series = sorted((SHARED / "dcmqi_ct3slice").glob("0*.dcm"))
    if not series:
        pytest.skip("shared/data/dcmqi_ct3slice is not here")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in series:
            image = pydicom.dcmread(path)
            image.SpecificCharacterSet = "ISO_IR 100"  # Empty in these files.
            image.save_as(tmp_path / "slice.dcm")
            archive.writestr(f"../../{path.name}", (tmp_path / "slice.dcm").read_bytes())
    answer = client.post("/segment?output=dicom-seg&classes=spleen", content=packed.getvalue())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom" and answer.content[128:132] == b"DICM"
    wrong = client.post("/segment?output=dicom-seg", content=small.ct_gz())
    assert "expected a zipped DICOM series for the output dicom-seg" in wrong.json()["error"]


def test_the_page_shows_itself_and_nothing_beside_it(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "Drop a CT here" in page.text
    names = re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text)
    assert len(names) == 2
    for name in (*names, "/page/vendor/niivue-0.69.0.umd.js"):
        assert client.get(name).status_code == 200, name
    for name in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/vendor/../../server.py"):
        assert client.get(name).status_code == 404, name


def test_openapi_names_every_route_and_its_examples_are_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    routes = {(route.path, method.lower()) for route in build_app(lambda: None).routes if isinstance(route, Route)
              for method in route.methods - {"HEAD"}}  # fmt: skip
    told = {
        (path, method)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert told == {(path, method) for path, method in routes if path not in ("/", "/openapi.json")}
    segment = document["paths"]["/segment"]["post"]
    example = segment["responses"]["200"]["content"]["application/json"]["example"]
    answer = client.post("/segment", content=small.ct_gz(), headers={"accept": "multipart/mixed"})
    about = json.loads(answer.content.split(b"\r\n\r\n", 2)[1].split(b"\r\n--")[0])
    assert set(example) == set(about)
    assert segment["parameters"][1]["schema"]["enum"] == [o for o in Output if o not in ("json", "attention")]
