"""A whole round on real files: it ends, it waits for an expert, it goes on after a kill, and nothing old moves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import GRID, config, project, volume

from ctune.compositions import load_model
from ctune.data.files import read_json
from ctune.data.nifti import write_mask, write_volume
from ctune.errors import PoolError, RoundError, UsageError
from ctune.evaluate import read_scores
from ctune.foundation import annotated_classes, retune_model, train_model
from ctune.hybrid import load_hybrid
from ctune.importance import read_importances
from ctune.project import Project
from ctune.round import (
    ARROWS,
    RoundState,
    abandon,
    changes,
    folder_of,
    hand_in,
    history,
    resume,
    rounds,
    simulate_expert,
    start,
    unrevised,
)
from ctune.round.arrows import Desk
from ctune.round.state import write_state
from ctune.select import read_csv
from ctune.strategy import revised_cases
from ctune.types import Source, Split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path, str]:
    made, truth = project(tmp_path_factory.mktemp("trained"))
    digest, _ = train_model(made, "small", device=CPU)
    return made, truth, digest


@pytest.fixture
def copy(trained: tuple[Project, Path, str], tmp_path: Path) -> tuple[Project, Path, str]:
    """The trained project, to do with as one likes."""
    import shutil

    made, truth, digest = trained
    shutil.copytree(made.root, tmp_path / "project")
    return Project(tmp_path / "project", made.config), truth, digest


def begin(made: Project, digest: str, **more: object):
    return start(made, name="small", model=digest, classes=["aorta"], **more)  # type: ignore[arg-type]


def test_training_takes_what_the_pool_annotates(trained: tuple[Project, Path, str]) -> None:
    made, _, digest = trained
    model = load_model(made.open_registry(), "small", CPU)
    assert model.digest == digest and set(model.network.classes) == {"liver", "spleen"} == annotated_classes(
        made
    )
    used = made.open_registry().record_of(model.record.heads["liver"]).annotations  # type: ignore[union-attr]
    assert {a.case_id for a in used} == {c.id for c in made.pool.cases(Split.POOL)}, "test cases never train"


def test_a_simulated_round_goes_to_the_end(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    state = begin(made, digest, truth=truth)
    assert state.next_arrow is None and set(state.arrows) == set(ARROWS)
    registry = made.open_registry()
    before, after = registry.record_of(digest), registry.record_of(state.model_out)  # type: ignore[arg-type]
    assert before.heads.items() <= after.heads.items(), "old heads are the old ones, by digest"  # type: ignore[union-attr]
    assert (
        after.base == before.base
        and after.parents == (digest,)
        and set(after.heads) == {"liver", "spleen", "aorta"}
    )  # type: ignore[union-attr]
    assert state.arrows["tune"].summary["unrevised_max_abs_logit_change"] == 0.0
    assert state.arrows["tune"].summary["compared_logits"] > 0
    assert {s.class_name for s in read_scores(folder_of(made, 1) / "evaluation")} == {
        "liver",
        "spleen",
        "aorta",
    }
    assert registry.verify().clean and len(registry.evaluations(state.model_out)) == 1  # type: ignore[arg-type]


def test_every_voxel_that_trained_the_head_has_a_source(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    state = begin(made, digest, truth=truth, expert="dr. a")
    head = made.open_registry().record_of(made.open_registry().record_of(state.model_out).heads["aorta"])  # type: ignore
    selected = [row.case_id for row in read_csv(folder_of(made, 1) / "selection.csv")]
    assert sorted(a.case_id for a in head.annotations) == sorted(selected) and head.experts == ("dr. a",)
    for case_id in selected:
        merged = load_hybrid(folder_of(made, 1) / "hybrid" / case_id)
        assert (merged.origin["aorta"] > 0).all()
        record = merged.records["aorta"][0]
        assert (record.source, record.author, record.round) == (Source.REVISED, "dr. a", 1) and record.created
        assert record.sha256 in {a.sha256 for a in head.annotations}
        assert merged.records["liver"][0].source == Source.ORIGINAL


def test_leases_are_read_when_the_list_is_made(
    copy: tuple[Project, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case that is opened while the pool is predicted and scored is not handed out."""
    made, _, digest = copy
    opened: list[str] = []
    score = Desk.score

    def slow(desk: Desk) -> dict[str, object]:
        opened.append("case_1")
        return score(desk)

    monkeypatch.setattr(Desk, "score", slow)
    state = begin(made, digest, cases=9, leased=lambda: set(opened))
    rows = read_csv(folder_of(made, 1) / "selection.csv")
    assert "case_1" not in {row.case_id for row in rows} and len(rows) == 3
    assert state.leased == ("case_1",) == rounds(made)[-1].leased


def test_a_round_asks_for_what_nobody_has_judged(copy: tuple[Project, Path, str]) -> None:
    made, _, digest = copy
    start(made, name="small", model=digest, classes=["aorta", "liver"], cases=9)
    rows = read_csv(folder_of(made, 1) / "selection.csv")
    assert rows and {row.classes for row in rows} == {("aorta",)}, "every liver is there from the beginning"


def test_without_a_truth_the_round_waits_for_the_expert(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    made, _, digest = copy
    state = begin(made, digest)
    assert state.next_arrow == "revise"
    assert resume(made).next_arrow == "revise", "nothing was handed in yet"
    first, second = (row.case_id for row in read_csv(folder_of(made, 1) / "selection.csv"))
    for case_id in (first, second):
        _, masks = volume(int(case_id.split("_")[1]))
        write_mask(tmp_path / "in" / case_id / "aorta.nii.gz", masks["aorta"], GRID)
    report = hand_in(made, tmp_path / "in", expert="dr. b", seconds=90)
    assert [(r.class_name, r.before_ml) for r in report.revised] == [
        ("aorta", 0.0)
    ] * 2 and not report.refused
    assert report.revised[0].after_ml == pytest.approx(masks["aorta"].sum() * 12 / 1000, rel=0.2)
    assert report.revised[0].slices_changed == 16
    assert all(r.already_there for r in hand_in(made, tmp_path / "in", expert="dr. b").revised)
    state = resume(made)
    assert state.next_arrow is None and state.arrows["revise"].summary["seconds"] == 180


@pytest.mark.parametrize("consistency", [False, True])
def test_a_round_looks_at_views_only_where_that_is_asked_for(
    copy: tuple[Project, Path, str], consistency: bool
) -> None:
    """Each view is one more pass of the network over the whole pool."""
    made, _, digest = copy
    asked = made.config.importance.model_copy(update={"consistency": consistency})
    state = begin(Project(made.root, made.config.model_copy(update={"importance": asked})), digest)
    (first, *_) = read_importances(folder_of(made, state.number) / "scores.json")
    told = read_json(folder_of(made, state.number) / "predictions" / first.case_id / "prediction.json")
    assert told["inconsistency"] is consistency
    assert any(one.inconsistent > 0 for one in first.classes.values()) is consistency


def test_going_on_with_what_there_is(copy: tuple[Project, Path, str], tmp_path: Path) -> None:
    made, _, digest = copy
    begin(made, digest)
    with_none = resume(made, revisions_are_complete=True)
    assert with_none.next_arrow == "revise", "not without a single revision"
    case_id = read_csv(folder_of(made, 1) / "selection.csv")[0].case_id
    write_mask(tmp_path / "in" / case_id / "aorta.nii.gz", volume(0)[1]["aorta"], GRID)
    hand_in(made, tmp_path / "in", expert="dr. b")
    assert resume(made).next_arrow == "revise"
    assert resume(made, revisions_are_complete=True).next_arrow is None
    assert revised_cases(made, ["aorta"]) == [case_id]


def test_bad_revisions_are_refused_and_the_rest_is_taken(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    made, _, digest = copy
    begin(made, digest)
    good = read_csv(folder_of(made, 1) / "selection.csv")[0].case_id
    mask = volume(0)[1]["aorta"]
    write_mask(tmp_path / "in" / good / "aorta.nii.gz", mask, GRID)
    write_mask(tmp_path / "in" / "case_99" / "aorta.nii.gz", mask, GRID)
    write_mask(tmp_path / "in" / "case_4" / "aorta.nii.gz", mask, GRID)
    report = hand_in(made, tmp_path / "in", expert="dr. b")
    assert [r.case_id for r in report.revised] == [good]
    why = dict(report.refused)
    assert "expected a case of the pool, got 'case_99'" in why["case_99"]
    assert "kept for test; it must not train a head" in why["case_4"]


def test_simulated_expert_at_the_desk(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    with pytest.raises(RoundError, match="expected a round that waits for revisions"):
        simulate_expert(made, truth, expert="s")
    begin(made, digest)
    assert len(simulate_expert(made, truth, expert="s").revised) == 2
    assert resume(made).next_arrow is None


def test_one_round_at_a_time(copy: tuple[Project, Path, str]) -> None:
    made, _, digest = copy
    begin(made, digest)
    with pytest.raises(
        RoundError, match=r"expected round 1 to be over, it stands before 'revise'; go on with"
    ):
        begin(made, digest)


def test_nothing_to_resume(copy: tuple[Project, Path, str]) -> None:
    with pytest.raises(RoundError, match="expected an unfinished round, found none; begin one"):
        resume(copy[0])


def test_a_second_round_starts_from_the_tuned_head(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    first = begin(made, digest, truth=truth)
    second = begin(made, first.model_out, truth=truth)  # type: ignore[arg-type]
    registry = made.open_registry()
    heads = [registry.record_of(s.model_out).heads["aorta"] for s in (first, second)]  # type: ignore
    assert heads[0] != heads[1] and registry.record_of(heads[1]).parent == heads[0]  # type: ignore[union-attr]
    chosen = [{r.case_id for r in read_csv(folder_of(made, n) / "selection.csv")} for n in (1, 2)]
    assert not chosen[0] & chosen[1], "a case that was revised is not handed out again"
    assert len(registry.record_of(heads[1]).annotations) == 4  # type: ignore[union-attr]
    # What the first round's expert drew was new; in the second there was a prediction to change.
    found = changes(made)
    assert {c.class_name for c in found} == {"aorta"}
    assert {c.case_id for c in found} <= {r.case_id for r in read_csv(folder_of(made, 2) / "selection.csv")}
    assert all(c.before_ml + c.after_ml >= c.changed_ml for c in found) and changes(made) == found


def test_tuning_outside_a_round(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    state = begin(made, digest, truth=truth)
    tuned, done = retune_model(made, "small", ["aorta"], device=CPU)
    assert made.open_registry().resolve("small:3") == tuned != state.model_out
    assert done.proof is not None and done.proof.max_abs_change == {"liver": 0.0, "spleen": 0.0}


@pytest.mark.parametrize("trainable", ["heads+decoder", "all"])
def test_more_than_heads_can_train_and_then_nothing_is_promised(
    copy: tuple[Project, Path, str], trainable: str
) -> None:
    made, truth, digest = copy
    settings = config().tune.model_copy(update={"trainable": trainable, "patch_size": (16, 16, 16)})
    free = Project(made.root, made.config.model_copy(update={"tune": settings}))
    state = begin(free, digest, truth=truth)
    registry = free.open_registry()
    before, after = registry.record_of(digest), registry.record_of(state.model_out)  # type: ignore[arg-type]
    assert (
        after.base != before.base and state.arrows["tune"].summary["unrevised_max_abs_logit_change"] is None
    )  # type: ignore[union-attr]
    assert registry.record_of(after.base).parents == (before.base,)  # type: ignore[union-attr]
    assert load_model(registry, "small", CPU).digest == state.model_out and registry.verify().clean


# What comes meanwhile --------------------------------------------------------------------------------------------------


def masks_in(folder: Path, cases: Sequence[str], name: str = "aorta") -> Path:
    """An expert's masks of one class of some cases."""
    for case_id in cases:
        mask = volume(int(case_id.split("_")[1]))[1]["aorta"]
        write_mask(folder / case_id / f"{name}.nii.gz", mask, GRID)
    return folder


def asked(made: Project, number: int = 1) -> list[str]:
    return [row.case_id for row in read_csv(folder_of(made, number) / "selection.csv")]


def overtaken(made: Project, digest: str, folder: Path) -> tuple[str, RoundState]:
    """A round of the aorta that waited while its model got a new liver: that model, and the round at its end."""
    begin(made, digest)
    hand_in(made, masks_in(folder / "in", asked(made)), expert="dr. b")
    hand_in(made, masks_in(folder / "liver", asked(made), "liver"), expert="dr. b")
    other, _ = retune_model(made, "small", ["liver"], device=CPU, force=True)
    return other, resume(made)


def test_heads_go_on_a_version_that_came_while_the_round_waited(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    """Before, the round's version had the liver of the one it began from, and nobody said so."""
    made, _, digest = copy
    other, state = overtaken(made, digest, tmp_path)
    registry = made.open_registry()
    first, second, third = (registry.record_of(v.digest) for v in registry.versions("small"))
    assert first.heads["liver"] != second.heads["liver"] == third.heads["liver"]  # type: ignore[union-attr]
    assert first.heads["spleen"] == third.heads["spleen"] and "aorta" in third.heads  # type: ignore[union-attr]
    assert third.parents == (other, digest) and state.arrows["register"].summary["onto"] == "small:2"  # type: ignore[union-attr]
    measured = {row["class_name"] for one in registry.evaluations(state.model_out) for row in one.scores}  # type: ignore[arg-type]
    assert measured == {"spleen", "aorta"}, "the liver that was measured is another"


def test_a_round_killed_after_it_went_on_a_newer_version_registers_once(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    made, _, digest = copy
    _, whole = overtaken(made, digest, tmp_path)
    unfinished = {name: done for name, done in whole.arrows.items() if name != "register"}
    write_state(made, whole.model_copy(update={"arrows": unfinished, "model_out": None}))
    again = resume(made)
    assert again.model_out == whole.model_out
    assert [v.version for v in made.open_registry().versions("small")] == [1, 2, 3]


def test_a_case_that_is_imported_while_the_round_predicts_is_the_next_rounds(
    copy: tuple[Project, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it had no prediction to score and the round could never go on."""
    made, _, digest = copy
    predict = Desk.predict

    def slow(desk: Desk) -> dict[str, object]:
        done = predict(desk)
        image = tmp_path / "late.nii.gz"
        write_volume(image, volume(77)[0], GRID)
        made.pool.add_case("case_77", image, Split.POOL)
        return done

    monkeypatch.setattr(Desk, "predict", slow)
    state = begin(made, digest, cases=9)
    assert state.next_arrow == "revise" and "case_77" not in asked(made)


def test_what_is_handed_in_while_the_round_predicts_is_its_own_and_not_asked_again(
    copy: tuple[Project, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, digest = copy
    score, early = Desk.score, masks_in(tmp_path / "early", ["case_1"])

    def slow(desk: Desk) -> dict[str, object]:
        hand_in(made, early, expert="dr. b")
        return score(desk)

    monkeypatch.setattr(Desk, "score", slow)
    begin(made, digest, cases=9)
    assert [a.round for a in made.pool.annotations("case_1", "aorta")] == [1]
    assert asked(made) and "case_1" not in asked(made)
    hand_in(made, masks_in(tmp_path / "late", asked(made)), expert="dr. b")
    state = resume(made)
    assert state.next_arrow is None and "case_1" in state.arrows["hybrid"].summary["cases"]
    hand_in(made, masks_in(tmp_path / "next", ["case_1"]), expert="dr. c")
    assert [a.round for a in made.pool.annotations("case_1", "aorta")] == [1, 2]


def test_what_was_revised_before_the_first_round_is_not_asked_for_again(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    made, _, digest = copy
    hand_in(made, masks_in(tmp_path / "in", ["case_0"]), expert="dr. b")
    begin(made, digest, cases=9)
    assert asked(made) and "case_0" not in asked(made)


def test_a_case_is_revised_when_what_was_asked_for_is(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    """Before, a mask of any class counted, and the tuning found nothing to learn from."""
    made, _, digest = copy
    start(made, name="small", model=digest, classes=["aorta", "postcava"], cases=2)
    first, second = asked(made)
    hand_in(made, masks_in(tmp_path / "liver", [first, second], "liver"), expert="dr. b")
    assert resume(made, revisions_are_complete=True).next_arrow == "revise", "nobody asked for a liver"
    hand_in(made, masks_in(tmp_path / "aorta", [first, second]), expert="dr. b")
    assert resume(made).next_arrow == "revise"
    rows = read_csv(folder_of(made, 1) / "selection.csv")
    assert unrevised(made, rows) == {first: ("postcava",), second: ("postcava",)}
    with pytest.raises(RoundError, match="expected a revision of postcava in at least one case"):
        resume(made, revisions_are_complete=True)
    hand_in(made, masks_in(tmp_path / "postcava", [first], "postcava"), expert="dr. b")
    assert resume(made).next_arrow == "revise"
    state = resume(made, revisions_are_complete=True)
    assert state.next_arrow is None
    assert state.arrows["revise"].summary["missing"] == {second: ("postcava",)}


def test_a_mistyped_class_is_refused_and_not_there_for_ever(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    made, _, digest = copy
    begin(made, digest)
    first, second = asked(made)
    masks_in(tmp_path / "in", [first], "aotra")
    report = hand_in(made, masks_in(tmp_path / "in", [second]), expert="dr. b")
    assert [(row.case_id, row.class_name) for row in report.revised] == [(second, "aorta")]
    assert "got 'aotra'; did you mean aorta?" in dict(report.refused)[first]
    assert not made.pool.annotations(first, "aotra")


# Rounds that cannot be ended are not begun, and any can be given up ------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"strategy": "importnace"}, UsageError, "expected a strategy of importance"),
        (
            {"truth": Path("nowhere")},
            PoolError,
            "expected the hidden truth in .*nowhere, found no such folder",
        ),
        ({"minutes": -1.0}, UsageError, "expected a budget above 0"),
        ({"classes": ["liver", "spleen"]}, RoundError, "nobody has judged liver, spleen, found none"),
    ],
)
def test_what_would_stop_a_round_later_stops_it_before_it_begins(
    copy: tuple[Project, Path, str], wrong: dict[str, object], error: type[Exception], said: str
) -> None:
    made, _, digest = copy
    with pytest.raises(error, match=said):
        start(made, **{"name": "small", "model": digest, "classes": ["aorta"], **wrong})  # type: ignore[arg-type]
    assert rounds(made) == []


def test_a_head_is_no_model_to_begin_from(copy: tuple[Project, Path, str]) -> None:
    made, _, digest = copy
    head = made.open_registry().record_of(digest).heads["liver"]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="expected a model, got the head"):
        begin(made, head)
    assert rounds(made) == []


def test_a_list_without_a_case_says_so_and_the_round_can_go_on_or_be_given_up(
    copy: tuple[Project, Path, str], tmp_path: Path
) -> None:
    """Before, it waited for revisions of nothing, for ever."""
    made, truth, digest = copy
    every = {case.id for case in made.pool.cases(Split.POOL)}
    with pytest.raises(RoundError, match=r"got none of 4: 4 are open by experts"):
        begin(made, digest, leased=lambda: every)
    assert rounds(made)[0].next_arrow == "select"
    assert resume(made).next_arrow == "revise", "the cases are free"
    hand_in(made, masks_in(tmp_path / "in", asked(made)[:1]), expert="dr. b")
    given_up = abandon(made, why="wrong model")
    assert given_up.next_arrow is None and given_up.abandoned and rounds(made) == [given_up]
    with pytest.raises(RoundError, match="expected an unfinished round to give up, found none"):
        abandon(made)
    state = begin(made, digest, truth=truth)
    assert state.number == 2 and state.next_arrow is None
    assert not {asked(made, 1)[0]} & set(asked(made, 2)), "what was handed in counts"
    assert len(state.arrows["hybrid"].summary["cases"]) == 3 and list(history(made).stages) == [0, 2]


# Killed ---------------------------------------------------------------------------------------------------------------

_CHILD = """
import os, signal, sys
from pathlib import Path
from ctune.project import open_project
from ctune.round import arrows, resume, start
made, truth, digest, arrow, when = open_project(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:6]
done = getattr(arrows.Desk, arrow)
def killed(desk):
    if when == "after":
        done(desk)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(arrows.Desk, arrow, killed)
start(made, name="small", model=digest, classes=["aorta"], truth=truth)
"""


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_round_killed_in_any_arrow_goes_on_and_gives_the_same_head(
    copy: tuple[Project, Path, str], arrow: str, uninterrupted: str
) -> None:
    """Killed with signal 9 after the arrow's work and before it is marked as done: the worst moment."""
    made, truth, digest = copy
    arguments = [sys.executable, "-c", _CHILD, str(made.root), str(truth), digest, arrow, "after"]
    killed = subprocess.run(
        arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert rounds(made)[0].next_arrow == arrow
    state = resume(made)
    assert state.next_arrow is None
    registry = made.open_registry()
    assert registry.verify().clean
    head = registry.record_of(registry.record_of(state.model_out).heads["aorta"])  # type: ignore
    assert head.weights == uninterrupted, "same seed, data and machine: same bytes"  # type: ignore[union-attr]
    assert [v.version for v in registry.versions("small")] == [1, 2]
    assert not list(made.root.rglob("*.tmp*")), "no half-written file is left"


@pytest.fixture(scope="module")
def uninterrupted(trained: tuple[Project, Path, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    import shutil

    made, truth, digest = trained
    root = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(made.root, root)
    arguments = [
        sys.executable, "-c", "import sys, json; from pathlib import Path; from ctune.project import open_project; "
        "from ctune.round import start; p = open_project(Path(sys.argv[1])); "
        "s = start(p, name='small', model=sys.argv[3], classes=['aorta'], truth=Path(sys.argv[2])); "
        "r = p.open_registry(); print(json.dumps(r.record_of(r.record_of(s.model_out).heads['aorta']).weights))",
        str(root), str(truth), digest,
    ]  # fmt: skip
    done = subprocess.run(
        arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True
    )
    return str(json.loads(done.stdout.decode().splitlines()[-1]))


def test_the_expert_draws_the_truth_with_an_unsteady_hand() -> None:
    from ctune.expert import simulate

    _, masks = volume(0)
    exact = simulate("c", {"liver": masks["liver"]}, {}, GRID, np.random.default_rng(0), jitter_mm=0)
    assert np.array_equal(exact.masks["liver"], masks["liver"])
    shaky = [
        simulate("c", {"liver": masks["liver"]}, {}, GRID, np.random.default_rng(s), jitter_mm=1.5)
        for s in (1, 1, 2)
    ]
    drawn = [s.masks["liver"] for s in shaky]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    dice = 2 * (drawn[0] & masks["liver"]).sum() / (drawn[0].sum() + masks["liver"].sum())
    assert 0.75 < dice < 1.0
    empty = np.zeros_like(masks["liver"])
    assert not simulate("c", {"liver": empty}, {}, GRID, np.random.default_rng(0)).masks["liver"].any()
    accepted = simulate(
        "c", {"liver": masks["liver"]}, {"liver": masks["liver"]}, GRID, np.random.default_rng(0), jitter_mm=0
    )
    assert accepted.seconds == 75 < exact.seconds, "looking costs less than drawing"


def test_what_each_round_measured_is_one_history(copy: tuple[Project, Path, str]) -> None:
    made, truth, digest = copy
    begin(made, digest, truth=truth)
    past = history(made)
    assert list(past.stages) == [0, 1] and set(past.stages[0]) == {"liver", "spleen"}
    assert past.stages[0]["liver"] == past.stages[1]["liver"], "an old class did not move"
    assert past.continual is not None and past.continual.bwt == past.continual.forgetting == 0.0
    assert len(made.open_registry().evaluations(digest)) == 1


def test_a_project_without_test_cases_is_not_stopped(tmp_path: Path) -> None:
    made, truth = project(tmp_path, pool=3, test=0)
    digest, _ = train_model(made, "small", device=CPU)
    state = begin(made, digest, truth=truth)
    assert state.next_arrow is None and state.arrows["evaluate"].summary["cases"] == 0
    assert history(made).stages == {}
