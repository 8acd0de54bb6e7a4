"""3D Slicer's own plugin: the calls that its client makes, from a tape, against the real server; labels by name."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import uvicorn
from small_review import AFFINE, GRID, SHAPE, box, review_project

from ctune.data.nifti import write_mask, write_volume
from ctune.data.nrrd import read_nrrd, write_nrrd
from ctune.errors import LabelError
from ctune.project import Project
from ctune.review.audit import AuditLog
from ctune.review.server import build_app
from ctune.review.slicer_labels import read_sent, write_labels
from ctune.review.tokens import add_token

TAPE = json.loads((Path(__file__).parent / "slicer_tape.json").read_text(encoding="utf-8"))
"""What the client of the plugin of MONAI Label 0.8.5 sent, one login and one case; {names} stand for what a run gives."""


class Slicer:
    """A server on loopback, and what the tape's names stand for."""

    def __init__(self, made: Project, folder: Path, role: str = "tune") -> None:
        self.made, self.folder = made, folder
        self.names = {"token": add_token(folder / "tokens.json", "dr. a", role)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        app = build_app(made, tokens=folder / "tokens.json")
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def play(self, call: dict[str, Any], file: bytes = b"") -> tuple[int, Any, bytes]:
        """Send one call of the tape: status, headers, body."""
        body = self._filled(call["body"]).encode("latin-1").replace(b"{file}", file) if call["body"] else None
        headers = {k: self._filled(v) for k, v in call["headers"].items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(call["method"], self._filled(call["path"]), body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def asks(self, method: str, path: str, body: str | None = None, file: bytes = b"") -> tuple[int, Any]:
        """Status and JSON of a call beside the tape, by the one who is signed in."""
        headers = {"authorization": "bearer {session}"} if "session" in self.names else {}
        status, _, found = self.play({"method": method, "path": path, "headers": headers, "body": body}, file)
        return status, json.loads(found)

    def sign_in(self) -> Slicer:
        self.names["session"] = self.asks("POST", "/auth/token", "username=x&password={token}")[1][
            "access_token"
        ]
        return self

    def _filled(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return text


@pytest.fixture
def slicer(tmp_path: Path) -> Iterator[Slicer]:
    out = Slicer(review_project(tmp_path / "project"), tmp_path)
    yield out
    out.stop()


def nrrd(folder: Path, array: np.ndarray) -> bytes:
    write_nrrd(folder / "file.nrrd", [array], GRID)
    return (folder / "file.nrrd").read_bytes()


def parts(headers: Any, body: bytes) -> dict[str, Any]:
    """{name: (file name, bytes)} of a multipart answer, by the standard library."""
    whole = BytesParser().parsebytes(f"content-type: {headers['content-type']}\r\n\r\n".encode() + body)
    assert whole.is_multipart()
    out = {}
    for part in whole.get_payload():
        name = part.get_param("name", header="content-disposition")
        out[name] = (part.get_filename(), part.get_payload(decode=True))
    return out


def drawn() -> np.ndarray:
    """What the plugin exports: 1, 2 for the segments it saves, though the table counts from 2."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[box("spleen") == 1], labels[box("liver") == 1] = 1, 2
    return labels


def test_the_tape_of_slicers_client_is_answered_as_the_protocol_says(slicer: Slicer, tmp_path: Path) -> None:
    label, image = nrrd(tmp_path, drawn()), nrrd(tmp_path, np.zeros(SHAPE, np.int16))
    seen = []
    for call in TAPE:
        key = (call["method"], call["path"])
        status, headers, body = slicer.play(call, image if key[1] == "/session/" else label)
        assert str(slicer.made.root).encode() not in body, f"{key}: a path of the server"
        check(slicer, key, status, headers, body)
        seen.append(key)
    assert len(TAPE) == 18 and len(set(seen)) == 17, "whether it tunes is asked before and after"
    (path,) = (slicer.made.root / "pool" / "case_1" / "annotations" / "spleen").glob("revised-*.nii.gz")
    assert np.array_equal(np.asarray(nib.load(path).dataobj), box("spleen"))
    done = [line["what"] for line in AuditLog(slicer.made.root / "review" / "audit.jsonl").lines()]
    assert done == ["signed in", "saw", "edited", "tunes", "stopped the tuning"]


def check(slicer: Slicer, key: tuple[str, str], status: int, headers: Any, body: bytes) -> None:
    """What the plugin relies on, answer by answer."""
    said = json.loads(body) if headers["content-type"] == "application/json" else None
    if key == ("GET", "/train/?check_if_running=true"):
        assert status == (200 if "tuning" in slicer.names else 404)
        return
    assert status == 200, (key, body[:300])
    if key[1] == "/auth/":
        assert said["enabled"] is True
    elif key[1] == "/auth/token":
        slicer.names["session"] = said["access_token"]
        assert said["token_type"] == "bearer"
    elif key[1] == "/info/":
        assert "config" not in said, "the plugin takes it for an old server"
        assert said["labels"] == ["spleen", "liver", "aorta"]
        assert (
            said["models"]["small"]["type"] == "segmentation"
            and said["strategies"]["importance"]["description"]
        )
        assert said["trainers"]["small"]["config"] == {} and said["datastore"]["total"] == 2
    elif key[1] == "/activelearning/importance":
        slicer.names["sample"] = said["id"]
        assert said["id"].startswith("case_1~") and said["name"] == "case_1.nii.gz" and "path" not in said
        assert said["reason"].startswith("spleen: new class")
    elif key == ("GET", "/datastore/image?image={sample}"):
        assert body == slicer.made.pool.case("case_1").image.read_bytes()
        assert 'filename="case_1.nii.gz"' in headers["content-disposition"]
    elif key[1].startswith("/datastore/?output=all"):
        assert set(said["objects"]) == {"case_1", "case_2"} and said["objects"]["case_1"]["labels"] == {}
    elif key[1].startswith("/infer/"):
        found = parts(headers, body)
        assert json.loads(found["params"][1])["label_names"] == {"liver": 1, "aorta": 2}, (
            "no gap in the numbers"
        )
        assert found["image"][0].endswith("case_1.nrrd") and found["image"][1].startswith(b"NRRD")
    else:
        check_work(slicer, key, said, headers, body)


def check_work(slicer: Slicer, key: tuple[str, str], said: Any, headers: Any, body: bytes) -> None:
    if key[0] == "PUT" and key[1].startswith("/datastore/label"):
        changed = {row["class_name"]: round(row["after_ml"], 2) for row in said["revised"]}
        assert said["label"] == "case_1" and changed == {"liver": 20.41, "spleen": 3.78}
    elif key[1].startswith("/datastore/label"):
        assert body.startswith(b"\x1f\x8b") and 'filename="case_1.nii.gz"' in headers["content-disposition"]
    elif key == ("PUT", "/session/"):
        slicer.names["upload"] = said["session_id"]
        assert said["session_info"]["name"] == "image.nrrd"
    elif key == ("POST", "/train/small"):
        slicer.names["tuning"] = said["id"]
        assert said["status"] == "RUNNING" and said["details"] and said["start_ts"]
    elif key == ("DELETE", "/train/"):
        assert said["status"] == "STOPPED" and said["end_ts"]


def test_with_and_without_a_slash(slicer: Slicer) -> None:
    slicer.sign_in()
    for path in ("/info", "/auth", "/datastore", "/datastore/image/?image=case_1", "/train"):
        wanted = 404 if path == "/train" else 200
        assert slicer.play({"method": "GET", "path": path, "headers": {"authorization": "Bearer {session}"}, "body": None})[0] == wanted  # fmt: skip


def test_a_ct_needs_a_session_or_the_ticket_of_its_sample(slicer: Slicer) -> None:
    assert slicer.asks("GET", "/datastore/image?image=case_1")[0] == 401
    assert slicer.asks("GET", "/datastore/image?image=case_1~guess")[0] == 401
    sample = slicer.sign_in().asks("POST", "/activelearning/importance")[1]["id"]
    del slicer.names["session"]
    assert slicer.asks("GET", f"/datastore/image?image=case_2~{sample.partition('~')[2]}")[0] == 401, (
        "of another case"
    )


def test_names_are_reduced_and_paths_lead_nowhere(slicer: Slicer) -> None:
    slicer.sign_in()
    bearer = {"authorization": "bearer {session}"}
    for name in ("/home/x/case_1.nii.gz", "C:%5Cdata%5Ccase_1.nii.gz"):
        call = {"method": "GET", "path": f"/datastore/image?image={name}", "headers": bearer, "body": None}
        assert slicer.play(call)[0] == 200
    for name in ("../../ctune.toml", "%2Fetc%2Fpasswd", "", "~"):
        status, said = slicer.asks("GET", f"/datastore/image?image={name}")
        assert status == 409 and "expected a case of the queue" in said["error"]


def test_who_may_tune_and_which_names_there_are(tmp_path: Path) -> None:
    slicer = Slicer(review_project(tmp_path / "project"), tmp_path, role="revise").sign_in()
    try:
        assert slicer.asks("POST", "/train/small")[0] == 403
        assert slicer.asks("POST", "/activelearning/random")[0] == 404
        status, said = slicer.asks("POST", "/auth/token", "username=x&password=wrong")
        assert status == 401 and "expected a token of this project" in said["error"]
    finally:
        slicer.stop()


def test_a_segment_that_nobody_drew_is_no_judgement(slicer: Slicer, tmp_path: Path) -> None:
    """Slicer makes an empty segment of every class: only where something was to revise does empty mean that it is not there."""
    slicer.sign_in()
    labels = np.zeros(SHAPE, np.uint8)
    labels[box("spleen") == 1] = 3
    rows = [{"name": name, "idx": k + 1} for k, name in enumerate(("aorta", "liver", "spleen"))]
    body = TAPE[9]["body"].replace('"label_info": [', f'"label_info": {json.dumps(rows)}, "old": [')
    status, said = slicer.asks("PUT", "/datastore/label?image=case_1", body, nrrd(tmp_path, labels))
    assert status == 200 and {r["class_name"]: r["after_ml"] == 0 for r in said["revised"]} == {
        "liver": True, "spleen": False
    }, "aorta was not to revise"  # fmt: skip
    revised = [a for name in ("liver", "spleen") for a in slicer.made.pool.annotations("case_1", name)]
    assert [a.seconds for a in revised] == [None, None], "Slicer tells no time: it is unknown, not zero"


def test_half_a_character_in_its_params_is_refused(slicer: Slicer, tmp_path: Path) -> None:
    slicer.sign_in()
    rows = [{"name": "\ud800", "idx": 1}]
    body = TAPE[9]["body"].replace('"label_info": [', f'"label_info": {json.dumps(rows)}, "old": [')
    status, said = slicer.asks("PUT", "/datastore/label?image=case_1", body, nrrd(tmp_path, drawn()))
    assert status == 400 and said["error"].startswith("expected whole characters in 'label_info'")
    assert slicer.made.pool.annotations("case_1", "spleen") == []


def test_numbers_become_names(tmp_path: Path) -> None:
    rows = [{"name": "spleen", "idx": 2}, {"name": "Liver", "idx": 5}]
    for numbers in ((1, 2), (2, 5)):
        labels = np.zeros(SHAPE, np.int16)
        labels[box("spleen") == 1], labels[box("liver") == 1] = numbers
        write_volume(tmp_path / "label.nii.gz", labels, GRID)
        found = read_sent(tmp_path / "label.nii.gz", rows, GRID, {}, "case_1")
        assert {n: np.array_equal(m, box(n)) for n, m in found.items()} == {"spleen": True, "liver": True}
    with pytest.raises(
        LabelError, match=r"case_1: expected the numbers of 1 names in label_info, got \[2, 5\]"
    ):
        read_sent(tmp_path / "label.nii.gz", rows[:1], GRID, {}, "case_1")


def test_a_seg_nrrd_carries_its_names_and_overlaps(tmp_path: Path) -> None:
    both = {"liver": box("liver"), "aorta": box("aorta") | box("liver")}
    file, _ = write_labels(both, GRID, ".seg.nrrd")
    (tmp_path / "label.seg.nrrd").write_bytes(file)
    found = read_sent(tmp_path / "label.seg.nrrd", [], GRID, {}, "case_1")
    assert {n: np.array_equal(m, both[n]) for n, m in found.items()} == {"liver": True, "aorta": True}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_map_goes_out_without_gaps_on_the_cts_grid(tmp_path: Path, suffix: str) -> None:
    masks = {"spleen": np.zeros(SHAPE, np.uint8), "liver": box("liver"), "aorta": box("aorta")}
    file, numbers = write_labels(masks, GRID, suffix)
    (tmp_path / f"out{suffix}").write_bytes(file)
    assert numbers == {"liver": 1, "aorta": 2}
    if suffix == ".nrrd":
        array, _ = read_nrrd(tmp_path / "out.nrrd", "out")
    else:
        image = nib.load(tmp_path / "out.nii.gz")
        array = np.asarray(image.dataobj)
        assert np.allclose(image.affine, AFFINE)
    assert np.array_equal(array == 1, box("liver") == 1)


def test_a_file_that_promises_too_much_is_not_unpacked(slicer: Slicer, tmp_path: Path) -> None:
    write_mask(tmp_path / "label.nii.gz", np.zeros(SHAPE, np.uint8), GRID)
    header = bytearray(nib.load(tmp_path / "label.nii.gz").header.binaryblock + bytes(4))
    header[42:48] = np.array([30000] * 3, "<i2").tobytes()
    slicer.sign_in()
    body = TAPE[9]["body"].replace("label.nrrd", "label.nii")
    status, said = slicer.asks("PUT", "/datastore/label?image=case_1", body, bytes(header))
    assert status in (409, 422), said
    status, said = slicer.asks("PUT", "/datastore/label?image=case_1", body, b"x" * 2**21)
    assert status == 413 and "expected at most" in said["error"]
