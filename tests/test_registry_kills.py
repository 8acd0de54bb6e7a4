"""kill -9 at every write step: afterwards the registry is sound, and the same again succeeds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import small_registry as small
from kill_steps import each_kill

from registry import Registry
from registry.archive import export, import_archive
from registry.gate import Gate
from registry.mirror import pull, push


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a folder: what a killed process leaves is the same, hundreds of runs are quicker."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="ctune-") as folder:
        yield Path(folder)


class Place:
    """A prepared registry, copied anew for each run; `here` is the copy."""

    def __init__(self, folder: Path, fill: Callable[[Registry], object]) -> None:
        self.folder, self.template, self.here = folder, folder / "template", folder / "here"
        registry = Registry.open(self.template)
        fill(registry)
        registry.catalog.database.engine.dispose()

    def fresh(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.template, self.here)
        shutil.rmtree(self.folder / "mirror", ignore_errors=True)

    def open(self) -> Registry:
        return Registry.open(self.here)

    def sound(self) -> Registry:
        registry = self.open()
        report = registry.verify()
        assert report.clean, report.problems
        return registry


def kill_at_each_step(
    place: Place, work: Callable[[Registry], object], check: Callable[[Registry], None] = lambda _: None
) -> list[str]:
    """Runs `work` on fresh copies; returns its steps. Every kill leaves what `check` and verify accept."""

    def prepare() -> Callable[[], object]:
        place.fresh()
        return lambda: work(place.open())

    kills, steps = each_kill(prepare, lambda: check(place.sound()), place.folder / "steps")
    assert kills == len(steps)
    return steps


def test_a_new_registry(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda _: None)

    def prepare() -> Callable[[], object]:
        shutil.rmtree(place.here, ignore_errors=True)
        return lambda: small.rounds(place.open(), count=1)

    kills, steps = each_kill(
        prepare, lambda: None if not place.here.exists() else (place.sound(), None)[1], tmp_path / "steps"
    )
    assert "CREATE" in steps and kills > 20
    assert [str(v) for v in place.sound().versions()] == ["abdomen:1"]


def test_register(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda registry: small.rounds(registry, count=1))

    def a_round(registry: Registry) -> None:
        before = registry.load("abdomen:1")
        heads = {**before.record.heads, "aorta": small.head(registry, before.record.base, "aorta", 1)}
        digest = small.model(registry, before.record.base, heads, [before.digest], 1)
        if registry.resolve("abdomen") != digest:
            registry.add_version("abdomen", digest)

    def whole_or_not(registry: Registry) -> None:
        for version in registry.versions():
            loaded = registry.load(str(version))
            assert all(loaded.head_weights(name) for name in small.ORGANS) and loaded.base_weights()
        assert len(registry.versions()) in (1, 2)

    steps = kill_at_each_step(place, a_round, whole_or_not)
    assert steps.count("fsync") >= 2 and steps.count("os.rename") == 1 and steps.count("before commit") >= 3
    assert len(place.sound().versions()) == 2


def test_promote_and_roll_back(tmp_path: Path) -> None:
    def two_evaluated(registry: Registry) -> None:
        for digest, dice in zip(small.rounds(registry, count=2), (0.5, 0.7), strict=True):
            small.evaluate(registry, digest, {"aorta": [dice] * 6})
        registry.set_alias("abdomen", "production", 1)

    place = Place(tmp_path, two_evaluated)
    steps = kill_at_each_step(
        place,
        lambda registry: registry.promote("abdomen:2", "production", gate=Gate()),
        lambda registry: None if registry.resolve("abdomen@production") else pytest.fail("the alias is gone"),
    )
    assert "UPDATE" in steps and "INSERT" in steps
    # The alias and its event go together: there is never one without the other.
    kill_at_each_step(
        place, lambda registry: registry.aliases()["abdomen", "production"] == 2 or registry.promote("abdomen:2", "production")
    )  # fmt: skip


def test_collect(tmp_path: Path) -> None:
    def with_garbage(registry: Registry) -> None:
        small.rounds(registry, count=2)
        on = registry.load("abdomen").record.base
        small.model(registry, on, {"liver": small.head(registry, on, "liver", 9)})
        registry.put(b"nobody asked for this")

    place = Place(tmp_path, with_garbage)
    blobs = len(list(Registry.open(place.template).store.digests()))

    def still_whole(registry: Registry) -> None:
        assert registry.load("abdomen:1").head_weights("aorta") and registry.load("abdomen:2").head_weights(
            "aorta"
        )

    steps = kill_at_each_step(place, lambda registry: registry.collect(dry=False, grace_s=0.0), still_whole)
    assert "DELETE" in steps and "os.remove" in steps
    assert len(list(place.sound().store.digests())) == blobs - 2
    assert place.sound().store.leftovers(0.0) == []


@pytest.mark.parametrize("way", ["archive", "mirror"])
def test_import_and_pull(tmp_path: Path, way: str) -> None:
    place = Place(tmp_path, small.base)
    other = Registry.open(tmp_path / "other")
    small.rounds(other, count=2)
    export(other, "abdomen:2", tmp_path / "abdomen.tar")
    push(other, tmp_path / "from")
    other.catalog.database.engine.dispose()

    def bring(registry: Registry) -> object:
        if way == "archive":
            return import_archive(registry, tmp_path / "abdomen.tar", actor="ada")
        return pull(registry, tmp_path / "from", actor="ada")

    def whole_or_not(registry: Registry) -> None:
        for version in registry.versions():
            assert registry.load(str(version)).head_weights("aorta")

    kill_at_each_step(place, bring, whole_or_not)
    assert "abdomen:2" in map(str, place.sound().versions())


@pytest.mark.parametrize("url", ["{}/mirror", "local://{}/mirror"])
def test_push(tmp_path: Path, url: str) -> None:
    """To a folder, and to the same by way of an fsspec URL."""
    place = Place(tmp_path, lambda registry: small.rounds(registry, count=2))
    where = url.format(tmp_path)
    Registry.open(tmp_path / "empty").catalog.database.engine.dispose()

    def what_is_listed_can_be_pulled(_: Registry) -> None:
        shutil.rmtree(tmp_path / "taker", ignore_errors=True)
        shutil.copytree(tmp_path / "empty", tmp_path / "taker")
        taker = Registry.open(tmp_path / "taker")
        if (tmp_path / "mirror").exists():
            pull(taker, where, actor="ada")
        assert taker.verify().clean

    kill_at_each_step(place, lambda registry: push(registry, where), what_is_listed_can_be_pulled)
    taker = Registry.open(tmp_path / "last")
    pull(taker, where, actor="ada")
    assert [str(v) for v in taker.versions()] == ["abdomen:1", "abdomen:2"] and taker.verify().clean


def test_export(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda registry: small.rounds(registry, count=1))
    out = tmp_path / "abdomen.tar"

    def whole_or_not(_: Registry) -> None:
        if out.exists():
            taker = Registry.open(tmp_path / "taker")
            import_archive(taker, out, actor="ada")
            assert taker.verify().clean

    kill_at_each_step(place, lambda registry: export(registry, "abdomen", out), whole_or_not)
    assert out.exists()
