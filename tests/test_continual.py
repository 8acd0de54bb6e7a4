"""Every way of tuning on a network that trains in a second: what it learns from, what moves, and what does not."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_network import GRID, config, project, volume

from ctune.cohort import hybrid_of
from ctune.compositions import load_model
from ctune.config import Config
from ctune.continual import predict_missing, tune_model
from ctune.data.nifti import write_volume
from ctune.errors import ModelError, UnknownClassError
from ctune.foundation import retune_model, train_model
from ctune.model.base import build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.network import Network
from ctune.outcome import compose, new_heads, read_record
from ctune.project import Project
from ctune.strategy import FORGETFUL, as_background, labels_of, training_data
from ctune.types import UNLABELLED, Source, Split

CPU = torch.device("cpu")
TUNED = ("spleen", "aorta")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Four pool cases with liver and spleen; an expert revised spleen in case 0, aorta in cases 0 and 1."""
    made, _ = project(tmp_path_factory.mktemp("strategies"))
    train_model(made, "small", device=CPU)
    for case_id, name in (("case_0", "spleen"), ("case_0", "aorta"), ("case_1", "aorta")):
        mask = volume(int(case_id[-1]))[1][name]
        made.pool.annotate(case_id, name, mask, source=Source.REVISED, author="dr. a", round=1)
    return made


@pytest.fixture
def copy(home: Project, tmp_path: Path) -> Project:
    shutil.copytree(home.root, tmp_path / "project")
    return Project(tmp_path / "project", home.config)


def with_tune(home: Project, **changes: object) -> Project:
    """The same project with other settings of tuning; one epoch unless they say so."""
    settings = config(tune=tune_settings(**changes))
    return Project(home.root, settings)


def tune_settings(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = config().tune.model_dump()
    return {**plain, "patch_size": (16, 16, 16), "epochs": 1, **changes}


def run(home: Project, folder: Path, classes: tuple[str, ...] = TUNED, **more: object) -> SimpleNamespace:
    """Tune and compose: the network before, the one after, and what the tuning said."""
    model = load_model(home.open_registry(), "small", CPU)
    before = model.reload()
    done = tune_model(home, model, classes, folder, seed=0, device=CPU, **more)  # type: ignore[arg-type]
    return SimpleNamespace(before=before, after=compose(model, folder), done=done)


def weights(network: Network, decoder: bool) -> list[torch.Tensor]:
    """The base's parameters in, or outside of, its decoder."""
    names = network.base.decoder_names
    return [
        p
        for n, p in network.base.named_parameters()
        if any(n == d or n.startswith(f"{d}.") for d in names) == decoder
    ]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


DATA = ("hybrid", "revised-only", "full")
TRAINABLE = ("heads", "heads+decoder", "all")


@pytest.mark.parametrize(
    ("data", "trainable", "kind", "start"),
    list(itertools.product(DATA, TRAINABLE, ("text", "pyramid"), ("model", "scratch"))),
)
def test_each_combination_moves_what_it_says_and_nothing_else(
    copy: Project, tmp_path: Path, data: str, trainable: str, kind: str, start: str
) -> None:
    chosen = with_tune(copy, data=data, trainable=trainable, head=kind, start=start)
    ran = run(chosen, tmp_path / "out")
    after: Network = ran.after
    fresh = build_base(chosen.config.base, 0)
    origin = ran.before if start == "model" else Network(fresh, {})
    assert [after.head(name).kind for name in TUNED] == [kind, kind]
    # The base: frozen under heads, its decoder free under heads+decoder, all of it under all.
    assert (fingerprint(after.base) == fingerprint(origin.base.eval())) == (trainable == "heads")
    assert same(weights(after, decoder=False), weights(origin, decoder=False)) == (trainable != "all")
    assert same(weights(after, decoder=True), weights(origin, decoder=True)) == (trainable == "heads")
    # The heads: new for the tuned classes; the other one is there where it is known or taught, and moves under all.
    others = set(after.classes) - set(TUNED)
    taught = trainable == "all" and data != "revised-only"
    assert others == ({"liver"} if start == "model" or taught else set())
    if start == "model" and trainable != "all":
        assert fingerprint(after.head("liver")) == fingerprint(ran.before.head("liver"))
    if start == "model" and taught:
        assert fingerprint(after.head("liver")) != fingerprint(ran.before.head("liver"))
    assert fingerprint(after.head("spleen")) != fingerprint(ran.before.head("spleen"))
    # What it learnt from.
    sources = {r.source for records in ran.done.annotations.values() for r in records}
    cases = {r.case_id for records in ran.done.annotations.values() for r in records}
    assert cases == ({f"case_{i}" for i in range(4)} if data == "full" else {"case_0", "case_1"})
    assert (sources == {Source.REVISED}) == (data == "revised-only")
    assert (ran.done.proof is not None) == (trainable == "heads")


# What each strategy learns from ---------------------------------------------------------------------------------------


def learnt(
    home: Project, data: str, trained: tuple[str, ...] = ("liver", *TUNED)
) -> set[tuple[str, str, str]]:
    settings = with_tune(home, data=data).config.tune
    _, used = training_data(home, TUNED, trained, settings)
    return {(r.case_id, r.class_name, str(r.source)) for records in used.values() for r in records}


def test_revised_only_is_the_revised_masks_alone(home: Project) -> None:
    expected = {("case_0", "spleen"), ("case_0", "aorta"), ("case_1", "aorta")}
    assert learnt(home, "revised-only") == {(*pair, "revised") for pair in expected}


def test_full_is_what_people_judged_in_the_whole_pool(copy: Project) -> None:
    copy.pool.annotate(
        "case_3", "aorta", volume(3)[1]["aorta"], source=Source.PREDICTED, author="ctune", model="0" * 64
    )
    found = learnt(copy, "full")
    assert {case for case, _, _ in found} == {f"case_{i}" for i in range(4)}
    assert {source for _, _, source in found} == {"original", "revised"}


def test_hybrid_takes_the_predictions_of_what_was_not_revised(copy: Project, tmp_path: Path) -> None:
    """A class that nobody annotated in a revised case is predicted by the model, and so it is written into the pool."""
    made, truth = project(tmp_path / "bare", pool=2, test=0)
    write_volume(truth / "new.nii.gz", volume(2)[0], GRID)
    shutil.copytree(copy.root / "registry", made.root / "registry")
    bare = with_tune(made, data="hybrid", trainable="all")
    bare.pool.add_case("case_9", truth / "new.nii.gz", Split.POOL)
    bare.pool.annotate(
        "case_9", "aorta", volume(2)[1]["aorta"], source=Source.REVISED, author="dr. a", round=1
    )
    run(bare, tmp_path / "out", ("aorta",))
    predicted = [r for r in bare.pool.annotations("case_9") if r.source == Source.PREDICTED]
    digest = load_model(bare.open_registry(), "small", CPU).digest
    assert {(r.class_name, r.author, r.model) for r in predicted} == {
        ("liver", "ctune", digest),
        ("spleen", "ctune", digest),
    }
    about = read_record(tmp_path / "out")["annotations"]
    assert [r.source for r in about["liver"]] == [Source.PREDICTED]
    assert [r.source for r in about["aorta"]] == [Source.REVISED]


def test_a_later_model_predicts_anew_what_an_earlier_one_predicted(copy: Project) -> None:
    image = copy.root.parent / "new.nii.gz"
    write_volume(image, volume(2)[0] + 1, GRID)
    copy.pool.add_case("case_9", image, Split.POOL)
    models = [load_model(copy.open_registry(), "small", CPU)]
    retune_model(with_tune(copy, epochs=3), "small", ["spleen"], device=CPU, force=True)
    models.append(load_model(copy.open_registry(), "small", CPU))
    assert models[0].digest != models[1].digest
    for model in (*models, models[1]):
        predict_missing(copy, model, ["case_9"])
    found = [r for r in copy.pool.annotations("case_9") if r.class_name == "spleen"]
    assert [r.model for r in sorted(found, key=lambda r: r.round)] == [m.digest for m in models]
    assert [r.model for r in hybrid_of(copy, "case_9").records["spleen"]] == [models[1].digest]


def test_a_class_without_annotations_is_refused(copy: Project, tmp_path: Path) -> None:
    bare = with_tune(copy, data="revised-only", trainable="all")
    with pytest.raises(
        ModelError, match=r"an annotation of stomach, got none; revise one first \(`--data full`"
    ):
        run(bare, tmp_path / "out", ("aorta", "stomach"))


def test_validation_and_test_cases_never_train(copy: Project) -> None:
    copy.pool.annotate(
        "case_4", "aorta", volume(4)[1]["aorta"], source=Source.REVISED, author="dr. a", round=1
    )
    for data in DATA:
        assert "case_4" not in {case for case, _, _ in learnt(copy, data)}


def test_labels_of_a_case_without_the_class_say_nothing_of_it(home: Project) -> None:
    settings = with_tune(home, data="full").config.tune
    labels = labels_of(home, "case_2", TUNED, TUNED, settings)
    assert set(labels.masks) == {"spleen"}


def test_background_fills_what_nobody_judged_and_leaves_the_input_alone() -> None:
    mask = np.array([[[0, 1, UNLABELLED]]], np.uint8)
    out = as_background({"liver": mask}, ("liver", "spleen"))
    assert out["liver"].tolist() == [[[0, 1, 0]]] and out["spleen"].tolist() == [[[0, 0, 0]]]
    assert mask.tolist() == [[[0, 1, UNLABELLED]]]


def test_a_new_class_needs_its_name_and_annotations_alone(copy: Project, tmp_path: Path) -> None:
    for kind in ("text", "pyramid"):
        ran = run(with_tune(copy, head=kind), tmp_path / kind, ("aorta",))
        assert ran.after.classes == ("liver", "spleen", "aorta")
        assert new_heads(tmp_path / kind) == ["aorta"]


def test_a_text_head_of_a_class_outside_the_table_takes_the_encoder_of_the_settings(
    copy: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is a stub that knows the probe: what matters is that the folder in ctune.toml comes to it."""
    from ctune.model import text

    table, asked = text.text_table(), list[Path]()

    def encode(names: list[str], folder: str) -> np.ndarray:
        asked.append(Path(folder))
        known = table.vectors[table.names.index("liver")]
        return np.stack([known + table.mean, np.eye(text.DIMENSION, dtype=np.float32)[0] + table.mean])

    monkeypatch.setattr(text, "encode", encode)
    mask = volume(0)[1]["aorta"]
    copy.pool.annotate("case_0", "left_ventricle", mask, source=Source.REVISED, author="dr. a", round=1)
    with pytest.raises(UnknownClassError, match=r"put the folder of the encoder .* into heads\.text_encoder"):
        run(with_tune(copy, head="text"), tmp_path / "none", ("left_ventricle",))
    for written, found in (("encoder", copy.root / "encoder"), ("/shared/encoder", Path("/shared/encoder"))):
        heads = {**copy.config.heads.model_dump(), "text_encoder": written}
        named = Project(copy.root, config(tune=tune_settings(head="text"), heads=heads))
        ran = run(named, tmp_path / "out", ("left_ventricle",))
        head = ran.after.head("left_ventricle")
        assert head.kind == "text" and asked[-1] == found
        assert torch.allclose(head.text, torch.eye(text.DIMENSION)[0], atol=1e-5), "the mean taken off"


# The collapse ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model that has really learnt liver and spleen, and one aorta in two cases."""
    made, _ = project(tmp_path_factory.mktemp("collapse"), train=_long(config(), 30))
    train_model(made, "small", device=CPU)
    for index in (0, 1):
        mask = volume(index)[1]["aorta"]
        made.pool.annotate(f"case_{index}", "aorta", mask, source=Source.REVISED, author="dr. a", round=1)
    return made


def _long(settings: Config, epochs: int) -> dict[str, object]:
    return {**settings.train.model_dump(), "epochs": epochs}


def liver_voxels(network: Network) -> int:
    hu, _ = volume(7)
    image = np.clip((hu + 175) / 425, 0, 1).astype(np.float32)
    with torch.inference_mode():
        return int((network.eval()(torch.from_numpy(image)[None, None], ["liver"]) > 0).sum())


@pytest.fixture
def forgetting(learned: Project, tmp_path: Path) -> Iterator[dict[str, int]]:
    found = {"truth": int(volume(7)[1]["liver"].sum())}
    for unlabelled in ("masked", "background"):
        ran = run(
            with_tune(learned, data="revised-only", trainable="all", unlabelled=unlabelled, epochs=20),
            tmp_path / unlabelled,
            ("aorta",),
        )
        found |= {"before": liver_voxels(ran.before), unlabelled: liver_voxels(ran.after)}
    yield found


def test_unlabelled_as_background_makes_the_old_class_collapse_and_masked_does_not(
    forgetting: dict[str, int],
) -> None:
    assert forgetting["before"] > 0.7 * forgetting["truth"]
    assert forgetting["background"] < 0.05 * forgetting["before"], "taught as background, the liver is gone"
    # It drifts with the weights it shares (a fifth to a half is left, by the seed), but nothing teaches it away.
    assert forgetting["masked"] > 0.1 * forgetting["before"], "a class that nobody annotated is not taught"


def test_the_warning_says_what_happens() -> None:
    assert "taught as background" in FORGETFUL and "will forget" in FORGETFUL
