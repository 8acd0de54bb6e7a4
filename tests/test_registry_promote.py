"""Promotion, its gate, the way back, composing the best heads, and what history and differences say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_registry as small

from registry import EvaluationRecord, ModelRecord, Registry
from registry.archive import export
from registry.card import card
from registry.errors import GateError, InvalidNameError, MismatchError, NotFoundError, RegistryError
from registry.gate import Gate, judge
from registry.history import diff, log
from registry.mirror import push
from registry.promote import promote, rollback

GOOD = {"liver": [0.9] * 10, "spleen": [0.8] * 10, "aorta": [0.7] * 10}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.open(tmp_path)
    first, second, _ = small.rounds(registry)
    small.evaluate(registry, first, GOOD)
    small.evaluate(registry, second, {**GOOD, "aorta": [0.85] * 10})
    registry.set_alias("abdomen", "production", 1)
    return registry


def worse(registry: Registry, organ: str = "liver", by: float = 0.1) -> None:
    """The third version lost `by` of one organ."""
    third = registry.resolve("abdomen:3")
    small.evaluate(registry, third, {**GOOD, organ: [value - by for value in GOOD[organ]]})


def test_a_better_version_passes_and_the_verdict_stays_with_the_event(registry: Registry) -> None:
    done = promote(registry, "abdomen:2", "production", gate=Gate(), actor="ada")
    assert (done.before, done.after) == (1, 2)
    assert done.verdict is not None and done.verdict.passed and done.verdict.cases == 10
    event = registry.events("abdomen")[-1]
    assert event.action == "promote" and event.actor == "ada"
    assert event.details["verdict"]["split"] == "test"
    assert registry.resolve("abdomen@production") == registry.resolve("abdomen:2")


def test_a_class_that_fell_is_named_and_the_alias_stays(registry: Registry) -> None:
    worse(registry)
    with pytest.raises(GateError) as caught:
        promote(registry, "abdomen:3", "production", gate=Gate(), actor="ada")
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "liver 0.900 -> 0.800" in text and "10 cases" in text and "spleen" not in text
    assert registry.aliases("abdomen") == {("abdomen", "production"): 1}


def test_a_fall_within_the_margin_passes(registry: Registry) -> None:
    worse(registry, by=0.015)
    assert promote(registry, "abdomen:3", "production", gate=Gate(margin=0.02), actor="ada").after == 3


def test_one_bad_case_of_ten_is_not_proof_of_no_fall(registry: Registry) -> None:
    # The mean falls by .019, within the margin of .02; by which cases happen to be drawn it could be .057.
    third = registry.resolve("abdomen:3")
    small.evaluate(registry, third, {**GOOD, "liver": [0.9] * 9 + [0.71]})
    with pytest.raises(GateError, match="liver"):
        promote(registry, "abdomen:3", "production", gate=Gate(margin=0.02), actor="ada")


def test_a_class_that_is_gone_does_not_pass(registry: Registry) -> None:
    third = registry.resolve("abdomen:3")
    small.evaluate(registry, third, {"liver": GOOD["liver"], "spleen": GOOD["spleen"]})
    with pytest.raises(GateError, match="aorta is missing"):
        promote(registry, "abdomen:3", "production", gate=Gate(), actor="ada")


def test_without_a_shared_evaluation_nothing_is_promoted(registry: Registry) -> None:
    with pytest.raises(GateError, match="evaluated on the same split, they are not; run `ctune evaluate`"):
        promote(registry, "abdomen:3", "production", gate=Gate(), actor="ada")


def test_too_few_cases_say_nothing(registry: Registry) -> None:
    few = {"liver": [0.9] * 3}
    first, third = (registry.resolve(f"abdomen:{n}") for n in (1, 3))
    small.evaluate(registry, first, few, "small")
    small.evaluate(registry, third, few, "small")
    pair = [registry.evaluations(d)[-1] for d in (first, third)]
    with pytest.raises(GateError, match=r"expected at least 5 cases .* got 3"):
        judge(pair[0], pair[1])


@pytest.mark.parametrize("metric", ["hd95_mm", "outcome", "truth_voxels", ""])
def test_a_gate_looks_at_shares_that_are_better_when_more(metric: str) -> None:
    """From 3 mm to 40 mm no HD95 falls."""
    with pytest.raises(
        GateError, match=f"expected a gate on dice or nsd, got '{metric}'; .* choose one of them"
    ):
        Gate(metric)
    assert Gate("nsd").metric == "nsd"


@pytest.mark.parametrize("value", ["found", float("nan"), 12.5, -0.5, [0.9]])
def test_a_score_that_is_no_share_is_told(value: Any) -> None:
    rows = tuple({"class_name": "liver", "case_id": f"c{i}", "dice": value} for i in range(5))
    bad = EvaluationRecord(
        model="a" * 64, split="test", data={f"c{i}": "1" for i in range(5)}, scores=rows, summary={}
    )
    with pytest.raises(
        GateError, match=r"expected dice of liver in c0 in \[0, 1\], got .*; evaluate both models again"
    ):
        judge(bad, bad)


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    for version in (2, 3):
        promote(registry, f"abdomen:{version}", "production", gate=None, actor="ada")
    assert rollback(registry, "abdomen@production", actor="bob").after == 2
    assert rollback(registry, "abdomen@production", actor="bob").after == 1
    with pytest.raises(RegistryError, match="pointed at another version before, it has not"):
        rollback(registry, "abdomen@production", actor="bob")
    with pytest.raises(InvalidNameError, match="expected NAME@ALIAS"):
        rollback(registry, "abdomen:2", actor="bob")


def test_rollback_and_promotion_in_turns(registry: Registry) -> None:
    promote(registry, "abdomen:2", "production", gate=None, actor="ada")
    rollback(registry, "abdomen@production", actor="ada")
    promote(registry, "abdomen:3", "production", gate=None, actor="ada")
    assert rollback(registry, "abdomen@production", actor="ada").after == 1


def test_whoever_moved_the_alias_meanwhile_has_the_word(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, "abdomen:2", "production", gate=None, actor="ada")
    other, events, aliases = Registry.open(tmp_path), registry.events, registry.aliases

    def meanwhile(version: int, answer: Any) -> Any:
        other.set_alias("abdomen", "production", version)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(registry, "events", lambda name: meanwhile(3, events(name)))
        with pytest.raises(RegistryError, match="to point at version 2 still, it was moved to 3 meanwhile"):
            rollback(registry, "abdomen@production", actor="bob")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "aliases", lambda name: meanwhile(1, aliases(name)))
        with pytest.raises(RegistryError, match="to point at version 3 still, it was moved to 1 meanwhile"):
            promote(registry, "abdomen:2", "production", gate=None, actor="bob")
    assert aliases("abdomen") == {("abdomen", "production"): 1}


def test_every_form_of_reference_is_taken_everywhere(registry: Registry, tmp_path: Path) -> None:
    registry.set_alias("abdomen", "newest", 3)
    digest = registry.resolve("abdomen:3")
    forms = ["abdomen", "abdomen:3", "abdomen@newest", f"sha256:{digest}", f"sha256:{digest[:12]}"]
    for number, form in enumerate(forms):
        assert (
            registry.load(form).digest == registry.resolve(form) == card(registry, form)["digest"] == digest
        )
        assert {row.change for row in diff(registry, form, "abdomen:3").classes} == {"same"}
        assert registry.record_of(registry.compose(form, {"aorta": form}))
        assert promote(registry, form, f"to{number}", gate=None, actor="ada").after == 3
        assert export(registry, form, tmp_path / f"{number}.ctune").model == digest
        assert push(registry, tmp_path / f"mirror{number}", [form])[0].version == 3
    assert registry.verify().clean


def test_the_card_of_a_model(registry: Registry) -> None:
    shown = card(registry, "abdomen:2")
    assert shown["versions"] == ["abdomen:2"] and shown["base"]["fingerprint"] == small.BASE_FINGERPRINT
    aorta = shown["classes"]["aorta"]
    assert (aorta["round"], aorta["cases"], aorta["annotations"]) == (1, 1, {"revised": 1})
    assert aorta["experts"] == ["ada"] and aorta["scores"]["dice"] == pytest.approx(0.85)
    assert aorta["measured"] == {"seconds": 4.5, "device": "cpu"}
    assert sorted(shown["classes"]) == ["aorta", "liver", "spleen"] and shown["evaluations"][0]["cases"] == 10
    assert [step["versions"] for step in shown["lineage"]] == [["abdomen:1"]]


def test_a_digest_without_a_name_cannot_be_promoted(registry: Registry) -> None:
    digest = registry.compose("abdomen:1", {"aorta": "abdomen:3"})
    with pytest.raises(InvalidNameError, match="expected a version of a name"):
        promote(registry, f"sha256:{digest}", "production", gate=None, actor="ada")


def test_the_best_head_of_each_class_from_different_rounds(registry: Registry) -> None:
    registry.set_alias("abdomen", "best", 2)
    digest = registry.compose("abdomen:3", {"aorta": "abdomen@best"})
    record, second = registry.record_of(digest), registry.load("abdomen:2").record
    assert isinstance(record, ModelRecord)
    assert record.heads["aorta"] == second.heads["aorta"]
    assert record.heads["liver"] == registry.load("abdomen:3").record.heads["liver"]
    assert set(record.parents) == {registry.resolve("abdomen:3"), registry.resolve("abdomen:2")}
    assert registry.verify().clean


def test_composing_on_a_base_alone_and_by_digests(registry: Registry) -> None:
    model = registry.load("abdomen:1").record
    digest = registry.compose(f"sha256:{model.base}", {"liver": f"sha256:{model.heads['liver'][:16]}"})
    record = registry.record_of(digest)
    assert isinstance(record, ModelRecord) and set(record.heads) == {"liver"} and record.parents == ()


def test_a_head_of_another_base_says_which_it_needs_which_it_got_and_what_to_do(registry: Registry) -> None:
    other = small.base(registry, seed=9, fingerprint="e" * 64)
    head = small.head(registry, other, "aorta", 77, fingerprint="e" * 64)
    here = registry.load("abdomen:1").record.base
    with pytest.raises(MismatchError) as caught:
        registry.compose("abdomen:1", {"aorta": f"sha256:{head}"})
    text = str(caught.value)
    assert f"needs the base sha256:{other[:12]} (fingerprint eeeeeeeeeeee)" in text
    assert f"got sha256:{here[:12]} (fingerprint bbbbbbbbbbbb)" in text
    assert "tune aorta on this base" in text


def test_composing_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(
        NotFoundError, match="expected a head of kidney in abdomen:1, it has aorta, liver, spleen"
    ):
        registry.compose("abdomen:1", {"kidney": "abdomen:1"})
    head = registry.load("abdomen:1").record.heads["liver"]
    with pytest.raises(MismatchError, match=r"expected a head of aorta, .* is one of liver"):
        registry.compose("abdomen:1", {"aorta": f"sha256:{head}"})


def test_log_tells_parents_before_children_and_what_changed(registry: Registry) -> None:
    nodes = log(registry, "abdomen")
    assert [node.labels[0] for node in nodes] == ["abdomen:1", "abdomen:2", "abdomen:3"]
    assert nodes[0].labels == ("abdomen:1", "abdomen@production")
    assert [node.changed for node in nodes] == [("aorta", "liver", "spleen"), ("aorta",), ("aorta",)]
    assert nodes[2].parents == (nodes[1].digest,)


def test_diff_names_the_heads_that_differ_with_scores_and_cases(registry: Registry) -> None:
    found = diff(registry, "abdomen:1", "abdomen@production")
    assert {row.change for row in found.classes} == {"same"}
    found = diff(registry, "abdomen:1", "abdomen:2")
    aorta = next(row for row in found.classes if row.class_name == "aorta")
    assert (aorta.change, aorta.cases_added) == ("changed", ("case0",))
    assert aorta.score_before == pytest.approx(0.7) and aorta.score_after == pytest.approx(0.85)
    assert found.same_base and found.split == "test"
