"""Whatever is registered, named, moved, composed, carried and cleaned up, in any order: nothing that a name leads to is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import small_registry as small
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry import ModelRecord, Registry
from registry.archive import export, import_archive
from registry.errors import RegistryError

NAMES = ("abdomen", "thorax")
ALIASES = ("production", "candidate")
_MEMORY = Path("/dev/shm")


def folder() -> Path:
    """In memory where there is such a folder: thousands of small writes are quicker."""
    return Path(
        tempfile.mkdtemp(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None, prefix="ctune-machine-")
    )


class Machine(RuleBasedStateMachine):
    """The registry beside what it should hold, in plain lists.

    versions: {name: digests, oldest first}. trail: {(name, alias): versions it pointed at}. loose: models without a name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = folder()
        self.registry = Registry.open(self.root / "here")
        self.there = Registry.open(self.root / "there")
        self.versions: dict[str, list[str]] = {name: [] for name in NAMES}
        self.trail: dict[tuple[str, str], list[int]] = {}
        self.loose: list[str] = []
        self.seed = 0

    def teardown(self) -> None:
        for registry in (self.registry, self.there):
            report = registry.verify()
            assert report.clean, report.problems
            registry.catalog.database.engine.dispose()
        shutil.rmtree(self.root)

    def known(self) -> list[str]:
        """Every model that has a name."""
        return [digest for found in self.versions.values() for digest in found]

    def give_name(self, name: str, digest: str) -> None:
        version = self.registry.add_version(name, digest)
        self.versions[name].append(digest)
        assert version.version == len(self.versions[name])

    @initialize()
    def a_base_with_a_model(self) -> None:
        self.base = small.base(self.registry)
        heads = {organ: small.head(self.registry, self.base, organ, 0) for organ in small.ORGANS}
        self.give_name(NAMES[0], small.model(self.registry, self.base, heads))

    @rule(name=st.sampled_from(NAMES), organ=st.sampled_from(small.ORGANS), data=st.data())
    def register(self, name: str, organ: str, data: st.DataObject) -> None:
        """A round: one new head on a model that is here."""
        parent = data.draw(st.sampled_from(self.known()))
        record = self.registry.record_of(parent)
        assert isinstance(record, ModelRecord)
        self.seed += 1
        new = small.head(self.registry, self.base, organ, self.seed, parent=record.heads[organ])
        model = small.model(self.registry, self.base, {**record.heads, organ: new}, [parent], self.seed)
        self.give_name(name, model)

    @rule(organ=st.sampled_from(small.ORGANS), data=st.data(), named=st.booleans())
    def compose(self, organ: str, data: st.DataObject, named: bool) -> None:
        first, second = (data.draw(st.sampled_from(self.known())) for _ in range(2))
        digest = self.registry.compose(f"sha256:{first}", {organ: f"sha256:{second}"}, note=f"{self.seed}")
        if named:
            self.give_name(NAMES[1], digest)
        elif digest not in self.known():
            self.loose.append(digest)

    @precondition(lambda self: self.loose)
    @rule(name=st.sampled_from(NAMES), data=st.data())
    def name_what_was_composed(self, name: str, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(self.loose))
        self.give_name(name, digest)

    @rule(alias=st.sampled_from(ALIASES), data=st.data(), promoted=st.booleans())
    def point(self, alias: str, data: st.DataObject, promoted: bool) -> None:
        name = data.draw(st.sampled_from([n for n in NAMES if self.versions[n]]))
        version = data.draw(st.integers(1, len(self.versions[name])))
        if promoted:
            self.registry.promote(f"{name}:{version}", alias)
        else:
            self.registry.set_alias(name, alias, version)
        trail = self.trail.setdefault((name, alias), [])
        if not trail or trail[-1] != version:
            trail.append(version)

    @precondition(lambda self: self.trail)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        name, alias = data.draw(st.sampled_from(sorted(self.trail)))
        trail = self.trail[name, alias]
        if len(trail) < 2:
            try:
                self.registry.rollback(f"{name}@{alias}")
            except RegistryError as error:
                assert "pointed at another version before" in str(error)
                return
            raise AssertionError("there was nothing to go back to")
        self.registry.rollback(f"{name}@{alias}")
        trail.pop()

    @rule(grace=st.sampled_from([0.0, 3600.0]), dry=st.booleans())
    def clean_up(self, grace: float, dry: bool) -> None:
        report = self.registry.collect(dry=dry, grace_s=grace)
        assert not set(report.records) & set(self.known())
        if not dry:
            self.loose = [digest for digest in self.loose if digest not in report.records]
            assert all(self.registry.known(digest) for digest in self.loose)

    @rule(data=st.data())
    def carry(self, data: st.DataObject) -> None:
        """Export a version, import it into the other registry: the same model, whole."""
        name = data.draw(st.sampled_from([n for n in NAMES if self.versions[n]]))
        version = data.draw(st.integers(1, len(self.versions[name])))
        export(self.registry, f"{name}:{version}", self.root / "model.ctune")
        moved = import_archive(self.there, self.root / "model.ctune", actor="ada")
        assert moved.model == self.versions[name][version - 1]
        loaded = self.there.load(f"sha256:{moved.model}")
        assert {organ: len(loaded.head_weights(organ)) for organ in loaded.heads}
        self.there.collect(dry=False, grace_s=0.0)

    @invariant()
    def every_name_leads_to_its_model_with_all_its_weights(self) -> None:
        for name, digests in self.versions.items():
            assert [v.digest for v in self.registry.versions(name)] == digests
            assert [v.version for v in self.registry.versions(name)] == list(range(1, len(digests) + 1))
        for digest in set(self.known()):
            record = self.registry.record_of(digest)
            assert isinstance(record, ModelRecord)
            for need in (record.base, *record.heads.values()):
                part = self.registry.record_of(need)
                self.registry.must_hold([part.weights])

    @invariant()
    def aliases_point_where_they_were_put_last(self) -> None:
        assert self.registry.aliases() == {key: trail[-1] for key, trail in self.trail.items()}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=8, stateful_step_count=25, deadline=None, derandomize=True)


PROMOTE = """
import sys
import small_registry as small
from registry import Registry
from registry.errors import RegistryError
registry = Registry.open(sys.argv[1])
lost = 0
for number in range(40):
    while True:
        before = registry.resolve("abdomen")
        record = registry.record_of(before)
        try:
            head = small.head(registry, record.base, "aorta", 100 + number, parent=record.heads["aorta"])
            model = small.model(registry, record.base, {**record.heads, "aorta": head}, [before], 100 + number)
            version = registry.add_version("abdomen", model)
            break
        except RegistryError:
            lost += 1
    registry.promote(f"abdomen:{version.version}", "production")
    loaded = registry.load("abdomen@production")
    assert len(loaded.head_weights("aorta")) > 4000
print(lost)
"""
COLLECT = """
import sys
from registry import Registry
registry = Registry.open(sys.argv[1])
print("ready", flush=True)
while not sys.stdin.read(1):
    pass
for _ in range(150):
    registry.collect(dry=False, grace_s=0.0)
"""


def test_what_has_a_name_survives_a_clean_up_beside_it(tmp_path: Path) -> None:
    # Two real processes, and no grace at all: a head, or the file it is being written to, may go before the model has
    # its name; that is an error in one line, and the same again succeeds. What has a name is never touched.
    root, tests = tmp_path / "registry", Path(__file__).resolve().parent
    small.rounds(Registry.open(root))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    collector = subprocess.Popen(
        [sys.executable, "-c", COLLECT, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert collector.stdout and collector.stdout.readline() == "ready\n"
    promoter = subprocess.Popen(
        [sys.executable, "-c", PROMOTE, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )  # fmt: skip
    _, complaint = collector.communicate("go", timeout=300)
    _, objection = promoter.communicate(timeout=300)
    assert (collector.returncode, promoter.returncode) == (0, 0), complaint + objection
    registry = Registry.open(root)
    assert len(registry.versions("abdomen")) == 43
    assert registry.aliases("abdomen") == {("abdomen", "production"): 43}
    assert registry.verify().problems == ()
