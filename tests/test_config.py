"""Settings: the published recipe by default, unknown keys refused with a suggestion, TOML there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctune.config import CONFIG_NAME, PRESETS, Config, ImportanceConfig, dump, from_mapping, load, preset
from ctune.errors import ConfigError, UnknownClassError


def test_the_default_is_the_published_recipe() -> None:
    config = Config()
    assert config.preprocessing.spacing_mm == (1.5, 1.5, 1.5)
    assert (config.preprocessing.window.low, config.preprocessing.window.high) == (-175, 250)
    assert (config.base.architecture, config.base.feature_size) == ("swin_unetr", 48)
    assert (config.train.learning_rate, config.train.weight_decay) == (1e-4, 1e-5)
    assert (config.train.patch_size, config.train.epochs, config.tune.epochs) == ((96, 96, 96), 250, 100)
    assert config.tune.trainable == "heads"
    assert config.tune.data == "hybrid"
    assert config.hybrid.order == ("original", "revised", "predicted")
    assert len(config.classes) == 9


def test_a_window_of_low_and_high_is_in_hounsfield_units() -> None:
    config = from_mapping({"preprocessing": {"window": {"low": -100, "high": 300}}}, where="here")
    assert config.preprocessing.window.kind == "hu"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_the_way_through_a_file(name: str, tmp_path: Path) -> None:
    config = preset(name, seed=7, aliases={"leber": "liver"})
    path = tmp_path / CONFIG_NAME
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    assert (config.seed, config.class_list.channel(config.classes[-1])) == (7, len(config.classes) - 1)


def test_flipping_left_and_right_is_off_in_every_preset() -> None:
    assert {name: "x" in preset(name).importance.flips for name in PRESETS} == dict.fromkeys(PRESETS, False)


def test_rounds_look_at_views_only_where_that_is_asked_for() -> None:
    found = ImportanceConfig(flips=("y",), shifts=((4, 0, 0),))
    assert found.views == ("y", (4, 0, 0)) and found.views_of_rounds == ()
    assert found.model_copy(update={"consistency": True}).views_of_rounds == found.views


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sed": 1}, "here: unknown key 'sed'; did you mean 'seed'?"),
        (
            {"tune": {"learning_rat": 1}},
            "here: unknown key 'tune.learning_rat'; did you mean 'learning_rate'?",
        ),
        ({"tune": {"epochs": 0}}, "here: tune.epochs: Input should be greater than or equal to 1; got 0"),
        ({"tune": {"trainable": "everything"}}, "here: tune.trainable: Input should be 'heads', "),
        (
            {"preprocessing": {"window": {"kind": "hu", "lo": 1}}},
            "'preprocessing.window.lo'; did you mean 'low'?",
        ),
        ({"preprocessing": {"window": {"low": 5, "high": 5}}}, "expected low < high, got 5.0 and 5.0"),
        ({"preprocessing": {"spacing_mm": [1, 0, 1]}}, "expected spacing_mm above 0, got (1.0, 0.0, 1.0)"),
        ({"hybrid": {"order": ["revised", "revised"]}}, "expected every source at most once"),
        ({"inference": {"overlap": 1.0}}, "inference.overlap: Input should be less than 1; got 1.0"),
        ({"selection": {"zzz": 1}}, "unknown key 'selection.zzz'; known keys: cases, strategy"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_in_one_line(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(settings, where="here")
    message = str(caught.value)
    assert told in message
    assert "\n" not in message


def test_a_doubled_class_is_refused_under_its_other_name_too() -> None:
    with pytest.raises((ConfigError, UnknownClassError), match=r"'IVC'.*twice"):
        from_mapping({"classes": ["postcava", "IVC"]}, where="here")


def test_classes_are_kept_under_ctunes_names(tmp_path: Path) -> None:
    path, expected = tmp_path / CONFIG_NAME, ("postcava", "gall_bladder", "spleen")
    path.write_text('classes = ["IVC", "Gall Bladder", "Milz"]\n[aliases]\nmilz = "spleen"\n')
    config = load(path)
    assert config.classes == config.class_list.names == expected
    path.write_text(dump(config))
    assert load(path) == config
    assert Config(classes=("Liver",)).classes == ("liver",)


def test_an_alias_counts_for_the_classes_of_a_preset_too() -> None:
    config = Config(aliases={"Spleen": "milz"})
    assert config.classes[0] == "milz" and config.class_list.names == config.classes


@pytest.mark.parametrize("aliases", [3, {"milz": 3}])
def test_aliases_that_are_none_are_told_before_the_classes(aliases: object) -> None:
    with pytest.raises(ConfigError, match=r"here: aliases"):
        from_mapping({"classes": ["Milz"], "aliases": aliases}, where="here")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no such file; run `ctune init`"):
        load(tmp_path / CONFIG_NAME)


def test_text_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_NAME
    path.write_text("seed = = 1")
    with pytest.raises(ConfigError, match=r"ctune\.toml: expected TOML, got .*line 1"):
        load(path)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="expected one of the presets ct, phantom, mr; got 'pet'"):
        preset("pet")


def test_settings_do_not_change_after_they_are_read() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().seed = 1  # type: ignore[misc]
