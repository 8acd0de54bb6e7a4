"""The benchmark of the service: its bad inputs, against the service itself; its figures and bounds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import small_serve as small
import torch
from starlette.testclient import TestClient

from ctune.bench.catalogue import Preset
from ctune.bench.result import check_gates
from ctune.bench.service.figures import gates, summary
from ctune.bench.service.inputs import bad_inputs
from ctune.errors import GateError
from ctune.serve.app import build_app
from ctune.serve.model import load
from ctune.serve.parts import TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings
from ctune.serve.tokens import Tokens

FOUND = {
    "ready": {"first": 9.0, "later": [2.0, 3.0, 4.0], "processor": [1.0, 2.0, 2.5]},
    "overhead": {"direct": [1.0, 1.0, 1.0], "service": [1.02, 1.02, 1.02]},
    "parallel": {"asked": 16, "failed": 0, "different": 0},
    "memory": {"requests": 30, "resident_mb": [300.0, 400.0, 398.0, 404.0, 401.0, 404.0, 480.0, 402.0]},
    "swap": {"seconds": [0.1, 0.3, 0.2], "failed": 0},
    "kill": {"before": "running", "after": "done", "attempts": 2},
    "bad": {
        "statuses": {"truncated": {"422": 3}, "wrong token": {"401": 2}},
        "slowest_seconds": 0.4,
        "ready": True,
        "right": True,
        "left": 0,
    },
    "schema": {"ran": True, "passed": True, "ready": True, "tail": []},
}


def test_the_same_seed_gives_the_same_bad_inputs_of_every_kind() -> None:
    first, again = (list(bad_inputs(32, 3)) for _ in range(2))
    assert [(b.kind, b.path, b.data) for b in first] == [(b.kind, b.path, b.data) for b in again]
    assert set(Counter(b.kind for b in first).values()) == {2} and len({b.kind for b in first}) == 16
    assert first[0].data != next(bad_inputs(1, 4)).data


def test_bad_inputs_are_never_an_error_of_the_service(tmp_path: Path) -> None:
    source = RegistrySource(small.fill(tmp_path / "registry"), "small")
    model = load(source, TorchLoader(source, torch.device("cpu")), source.resolve())
    service = Service(model, Settings(tmp_path / "state", tokens=Tokens({"a": small.hashed("a")})))
    with TestClient(build_app(service), raise_server_exceptions=False) as client:
        expected = client.post("/segment", content=small.ct(), headers={"authorization": "Bearer a"}).content
        for bad in bad_inputs(192, 0):
            mine = {"authorization": "Bearer a"} if bad.mine else {}
            answer = client.post(bad.path, content=bad.data, headers={**mine, **bad.headers})
            assert answer.status_code < 500, (bad.kind, bad.path, answer.text)
            assert bad.mine or answer.status_code in (401, 405), (bad.kind, answer.status_code)
            assert str(tmp_path) not in answer.text
        now = client.post("/segment", content=small.ct(), headers={"authorization": "Bearer a"}).content
        assert now == expected and client.get("/readyz").status_code == 200
    assert not (tmp_path / "state" / "scratch").exists()


def test_figures_are_medians_and_95th_percentiles_and_keep_their_bounds() -> None:
    found = summary(FOUND)
    assert (found["ready_seconds"], found["swap_seconds"], found["swap_seconds_max"]) == (3.0, 0.2, 0.3)
    assert found["ready_processor_seconds"] == 2.0
    assert found["overhead_p95_ratio"] == pytest.approx(1.02)
    assert found["memory_growth_ratio"] == pytest.approx(1.01)
    assert (found["bad_inputs"], found["failed_requests"], found["jobs_lost"]) == (5, 0, 0)
    check_gates(gates(found, Preset.CPU))
    slow = summary({**FOUND, "swap": {"seconds": [0.7], "failed": 1}})
    with pytest.raises(GateError, match=r"failed_requests: expected at most 0, got 1.*swap_seconds"):
        check_gates(gates(slow, Preset.CPU))
    lost = summary({**FOUND, "kill": {"before": "running", "after": "queued", "attempts": 1}})
    with pytest.raises(GateError, match="jobs_lost"):
        check_gates(gates(lost, Preset.SMOKE))
