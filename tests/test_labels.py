"""Tables of label numbers: as people write them, as data sets do, and TotalSegmentator's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ctune.classes import canonical
from ctune.data.labels import TOTALSEGMENTATOR, label_table, parse_labels, read_table, split_ignore
from ctune.errors import DataError, UsageError


def test_a_table_by_hand() -> None:
    assert parse_labels("1=spleen, 63 = inferior_vena_cava") == {"spleen": (1,), "inferior_vena_cava": (63,)}
    assert parse_labels("1+2=liver,2=liver_tumor") == {"liver": (1, 2), "liver_tumor": (2,)}
    assert parse_labels("1=kidney,2=kidney") == {"kidney": (1, 2)}


@pytest.mark.parametrize("text", ["spleen", "1:spleen", "a=spleen", "-1=spleen", "1=", "1+=liver"])
def test_a_table_that_is_none(text: str) -> None:
    expected = f"expected labels such as 1=spleen,63=postcava or 1+2=liver, the word totalsegmentator or a JSON file; got {text!r}"
    with pytest.raises(UsageError, match=re.escape(expected)):
        parse_labels(text)
    with pytest.raises(UsageError, match="expected labels such as 1=spleen,63=postcava, got ','"):
        parse_labels(",")


def test_totalsegmentator_is_the_second_version() -> None:
    assert parse_labels("TotalSegmentator") is TOTALSEGMENTATOR
    assert sorted(n for ids in TOTALSEGMENTATOR.values() for n in ids) == list(range(1, 118))
    # Fixed points from its published class map, spread over the whole table.
    known = {
        1: "spleen", 2: "kidney_right", 3: "kidney_left", 4: "gallbladder", 5: "liver", 6: "stomach", 7: "pancreas",
        26: "vertebrae_S1", 27: "vertebrae_L5", 32: "vertebrae_T12", 50: "vertebrae_C1", 51: "heart", 52: "aorta",
        63: "inferior_vena_cava", 65: "iliac_artery_left", 78: "hip_right", 79: "spinal_cord", 89: "iliopsoas_right",
        90: "brain", 92: "rib_left_1", 104: "rib_right_1", 115: "rib_right_12", 117: "costal_cartilages",
    }  # fmt: skip
    assert {TOTALSEGMENTATOR[name] for name in known.values()} == {(n,) for n in known}
    assert len({canonical(name) for name in TOTALSEGMENTATOR}) == 117


def test_tables_of_data_sets(tmp_path: Path) -> None:
    assert label_table({"0": "background", "1": "Anterior"}, tmp_path) == {"Anterior": (1,)}
    nnunet = {"background": 0, "liver": [1, 2], "tumor": 2, "ignore": 3}
    assert label_table(nnunet, tmp_path) == {"liver": (1, 2), "tumor": (2,), "ignore": (3,)}
    path = tmp_path / "labels.json"
    for document in (nnunet, {"labels": nnunet}):
        path.write_text(json.dumps(document))
        assert parse_labels(str(path)) == read_table(path) == label_table(nnunet, tmp_path)


def test_what_nobody_judged_is_no_class() -> None:
    assert split_ignore({"liver": (1, 2), "ignore": (3,)}) == ({"liver": (1, 2)}, (3, 255))
    assert split_ignore({"liver": (1,)}) == ({"liver": (1,)}, (255,))
    assert split_ignore({"liver": (1, 255), "tumor": (3,), "ignore": (3, 4)}) == (
        {"liver": (1, 255), "tumor": (3,)},
        (4,),
    ), "an id that a class has is judged"


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (None, 'expected "labels" such as {"1": "liver"} or {"liver": 1} in d.json, got None'),
        ({}, 'expected "labels" such as {"1": "liver"} or {"liver": 1} in d.json, got {}'),
        ({"one": "liver"}, "expected whole numbers as label ids in d.json, got 'one': 'liver'"),
        ({"liver": None}, "expected whole numbers as label ids in d.json, got 'liver': None"),
    ],
)
def test_a_data_sets_table_that_is_none(labels: object, complaint: str) -> None:
    with pytest.raises(DataError, match=re.escape(complaint)):
        label_table(labels, Path("d.json"))


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"expected a JSON table of labels in .*x\.json, got"):
        parse_labels(str(tmp_path / "x.json"))
    with pytest.raises(DataError, match=r"expected a JSON table of labels in .*missing\.json, got"):
        parse_labels(str(tmp_path / "missing.json"))
