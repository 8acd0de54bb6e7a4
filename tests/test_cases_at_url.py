"""Predictions at a URL: the bytes of a folder, done once, and scored from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from small_network import network, project
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.compositions import register_model
from ctune.data.cases_at_url import CasesAtUrl, place_of
from ctune.errors import DataError, UsageError
from ctune.project import Project

runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found, _ = project(tmp_path_factory.mktemp("project"), pool=2)
    register_model(found.open_registry(), "organs", network(), found.config, {})
    register_model(found.open_registry(), "others", network(seed=1), found.config, {})
    return found


@pytest.fixture(scope="module")
def on_disk(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same predictions in a folder."""
    folder = tmp_path_factory.mktemp("disk") / "predictions"
    assert asked(made, "predict", "organs", "--flips", "-o", folder).exit_code == 0
    return folder


@pytest.fixture(scope="module", params=["memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A place of its own in memory, or in a bucket of a real S3 server on loopback."""
    if request.param == "memory":
        yield f"memory://{uuid4().hex}/predictions"
        return
    s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("cts")
        yield "s3://cts/group/predictions"
        s3fs.S3FileSystem.clear_instance_cache()
    s3.stop()


def asked(made: Project, *words: object) -> Result:
    return runner.invoke(app, [*map(str, words), "--project", str(made.root), "--json"])


def at(url: str) -> dict[str, bytes]:
    """{file below the URL: its bytes}."""
    import fsspec

    fs, place = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {p.removeprefix(place).strip("/"): fs.cat_file(p) for p in fs.find(place)}


def in_folder(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def scores_in(folder: Path) -> dict[str, object]:
    """The same of scores, without what a map was made from: files on a disk are known by size and time too."""
    found: dict[str, object] = dict(in_folder(folder))
    for name in (n for n in found if n.startswith("attention/") and n.endswith(".json")):
        found[name] = {k: v for k, v in json.loads(in_folder(folder)[name]).items() if k != "about"}
    return found


def test_predicted_at_a_url_killed_in_the_middle_and_scored_from_there(
    made: Project, on_disk: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one test, as moto's server is slow to start."""
    import fsspec

    first = asked(made, "predict", "organs", "--flips", "-o", url)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["out"] == url
    assert at(url) == in_folder(on_disk), "byte for byte"
    # Again: nothing is sent.
    sent: list[str] = []
    replaced = CasesAtUrl._replace
    noted = lambda self, case, *rest: (sent.append(case), replaced(self, case, *rest))  # noqa: E731
    monkeypatch.setattr(CasesAtUrl, "_replace", noted)
    assert asked(made, "predict", "organs", "--flips", "-o", url).exit_code == 0
    assert sent == []
    # Killed before the record of a case was there, with a file of something else left: that case alone is done.
    fs, place = fsspec.core.url_to_fs(url)
    fs.rm_file(f"{place}/case_1/prediction.json")
    fs.pipe_file(f"{place}/case_1/kidney.nii.gz", b"left over")
    unfinished = asked(made, "score", url, "-o", tmp_path / "early")
    assert unfinished.exit_code == 0 and list(json.loads(unfinished.stdout)["scores"]) == ["case_0"]
    assert asked(made, "predict", "organs", "--flips", "-o", url).exit_code == 0
    assert sent == ["case_1"]
    assert at(url) == in_folder(on_disk)
    # Scores are those of the folder, and a case that has one is not fetched again.
    for where, out in ((url, "shared"), (on_disk, "alone")):
        scored = asked(made, "score", where, "-o", tmp_path / out)
        assert scored.exit_code == 0, scored.output
    assert scores_in(tmp_path / "shared") == scores_in(tmp_path / "alone")
    kept = fs.cat_file(f"{place}/case_0/probabilities.nii.gz")
    fs.rm_file(f"{place}/case_0/probabilities.nii.gz")
    assert asked(made, "score", url, "-o", tmp_path / "shared").exit_code == 0
    fs.pipe_file(f"{place}/case_0/probabilities.nii.gz", kept)
    # Two models, one of them at the URL and one on a disk, as one ensemble.
    both = asked(made, "score", url, on_disk, "-o", tmp_path / "both")
    assert both.exit_code == 0, both.output
    # Another model's masks take the place of these.
    assert asked(made, "predict", "others", "--classes", "liver", "-o", url).exit_code == 0
    assert sorted(at(url)) == [
        "case_0/liver.nii.gz", "case_0/prediction.json", "case_1/liver.nii.gz", "case_1/prediction.json", "volumes.json",
    ]  # fmt: skip


def test_a_failure_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    place = CasesAtUrl(f"memory://{uuid4().hex}")
    with place.updating("case_0") as folder:
        (folder / "liver.nii.gz").write_bytes(b"one")
        (folder / "prediction.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt), place.updating("case_0") as folder:
        assert [path.name for path in folder.iterdir()] == ["prediction.json"], "the record alone is brought"
        (folder / "liver.nii.gz").write_bytes(b"two")
        raise KeyboardInterrupt
    assert at(place.url) == {"case_0/liver.nii.gz": b"one", "case_0/prediction.json": b"{}"}


def test_a_record_is_the_last_to_come_and_the_first_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    place, memory = CasesAtUrl(f"memory://{uuid4().hex}"), fsspec.filesystem("memory")
    put = type(memory).put_file

    def broken(self: Any, here: str, there: str, **more: Any) -> None:
        if there.endswith("spleen.nii.gz"):
            raise OSError("the network went away")
        put(self, here, there, **more)

    def update(content: bytes) -> None:
        with place.updating("case_0") as folder:
            (folder / "liver.nii.gz").write_bytes(content)
            (folder / "spleen.nii.gz").write_bytes(content)
            (folder / "prediction.json").write_text("{}")

    update(b"one")
    assert list(place.records()) == ["case_0"]
    monkeypatch.setattr(type(memory), "put_file", broken)
    with pytest.raises(
        DataError, match=r"expected to reach memory://.*, got: the network went away; check the URL"
    ):
        update(b"two")
    assert place.records() == {}, "half of one and half of the other is no prediction"


def test_what_cannot_be_at_a_url_says_so(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("predictions") == Path("predictions")
    for command in (("score", "memory://x"), ("evaluate", "organs")):
        answer = asked(made, *command, "-o", "s3://bucket/scores")
        assert answer.exit_code == UsageError.exit_code, answer.output
        assert (
            "expected a folder for --out, got a URL (s3:/bucket/scores); only what `ctune predict` writes"
            in answer.stderr
        )
    assert list(tmp_path.iterdir()) == []
    wrong = asked(made, "predict", "organs", "-o", "nosuch://bucket/x")
    assert wrong.exit_code == 1
    assert "expected to reach nosuch://bucket/x, got: Protocol not known" in wrong.stdout + wrong.stderr
    none = asked(made, "score", "memory://nothing-here")
    assert (none.exit_code, "expected predictions in memory://nothing-here, found none" in none.stderr) == (
        2,
        True,
    )
