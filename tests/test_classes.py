"""Class names: one spelling here, other people's names mapped to it, channels in one place."""

from __future__ import annotations

import pytest

from ctune.classes import ALIASES, NEW_FOUR, NINE_ORGANS, OLD_FIVE, ClassList, canonical, nearest
from ctune.errors import UnknownClassError


def test_the_nine_organs_are_the_five_old_and_the_four_new() -> None:
    assert sorted(OLD_FIVE + NEW_FOUR) == sorted(NINE_ORGANS)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("inferior_vena_cava", "postcava"),
        ("IVC", "postcava"),
        ("Right Kidney", "kidney_right"),
        ("kidney-left", "kidney_left"),
        ("GallBladder", "gall_bladder"),
        (" liver ", "liver"),
        ("Oesophagus", "esophagus"),
        ("lung.upper/lobe", "lung_upper_lobe"),
    ],
)
def test_names_of_other_data_sets(theirs: str, ours: str) -> None:
    assert canonical(theirs) == ours
    assert canonical(ours) == ours


def test_an_alias_leads_to_a_name_that_stays() -> None:
    assert {name: canonical(name) for name in ALIASES.values()} == {name: name for name in ALIASES.values()}


def test_a_projects_own_aliases_win() -> None:
    assert canonical("Leber", {"leber": "liver"}) == "liver"
    assert canonical("IVC", {"ivc": "hepatic_vein"}) == "hepatic_vein"
    assert canonical("V. Cava", {"v. cava": "IVC".lower()}) == "postcava"


@pytest.mark.parametrize("name", ["", "  ", "_liver", "liver!", "../liver", "leber\u00e4", "x" * 65])
def test_a_text_that_cannot_be_a_class_is_refused(name: str) -> None:
    with pytest.raises(
        UnknownClassError, match=r"expected a class name of 1 to 64 letters.*rename the class"
    ):
        canonical(name)


def test_channels_follow_the_order_given() -> None:
    classes = ClassList.of(["stomach", "IVC", "liver"])
    assert list(classes) == ["stomach", "postcava", "liver"]
    assert [classes.channel(c) for c in ("liver", "inferior vena cava", "stomach")] == [2, 1, 0]
    assert (len(classes), classes[1], "liver" in classes) == (3, "postcava", True)


def test_an_unknown_class_suggests_the_nearest() -> None:
    classes = ClassList.of(["spleen", "pancreas"])
    with pytest.raises(UnknownClassError) as caught:
        classes.channel("pancrea")
    assert str(caught.value) == (
        "expected one of the classes spleen, pancreas; got 'pancrea'; did you mean 'pancreas'?"
    )
    with pytest.raises(UnknownClassError, match="add it by tuning a head for it"):
        classes.channel("aorta")


def test_a_class_twice_is_refused() -> None:
    with pytest.raises(UnknownClassError, match=r"got 'IVC' \(postcava\) twice; remove one of them"):
        ClassList.of(["postcava", "liver", "IVC"])


def test_nearest_says_nothing_rather_than_nonsense() -> None:
    assert nearest("livr", ["liver", "spleen"]) == "liver"
    assert nearest("zzz", ["liver", "spleen"]) is None
