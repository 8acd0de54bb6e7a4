"""ITK-SNAP's label descriptions: names, numbers and colours there and back, and files that ITK-SNAP itself wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctune.classes import NINE_ORGANS
from ctune.data.exchange import read_segmentation, write_segmentation
from ctune.data.itksnap import colours_of, is_descriptions, read_descriptions, write_descriptions
from ctune.data.nifti import write_mask
from ctune.data.terminology import term_of
from ctune.errors import LabelError
from ctune.types import Grid

GRID = Grid((4, 3, 2), np.diag([-1.0, -1.0, 2.0, 1.0]))


def test_names_numbers_and_colours_come_back(tmp_path: Path) -> None:
    numbers = {name: k + 1 for k, name in enumerate(NINE_ORGANS)}
    write_descriptions(tmp_path / "labels.txt", numbers)
    assert is_descriptions(tmp_path / "labels.txt")
    assert read_descriptions(tmp_path / "labels.txt") == {name: (n,) for name, n in numbers.items()}
    assert colours_of(tmp_path / "labels.txt") == {name: term_of(name).colour for name in numbers}
    text = (tmp_path / "labels.txt").read_text().splitlines()
    assert text[1] == "# ITK-SnAP Label Description File"
    assert text[14] == '    0     0    0    0        0  0  0    "Clear Label"'
    assert text[15] == '    1   157  108  162        1  1  1    "spleen"'


def test_a_file_of_the_program_with_its_own_names(tmp_path: Path) -> None:
    write_mask(tmp_path / "seg.nii.gz", np.array([0, 0, 7, 7, 3, 3] * 4, np.uint8).reshape(GRID.shape), GRID)
    (tmp_path / "seg.label").write_text(
        '# a comment\n    0     0    0    0        0  0  0    "Clear Label"\n'
        '    7   255    0    0      0.50  1  1    "Gallbladder"\n    3     0  255    0        1  0  1    "IVC"\n'
    )
    back = read_segmentation(tmp_path / "seg.nii.gz", GRID)
    assert {name: int(mask.sum()) for name, mask in back.items()} == {"gall_bladder": 8, "postcava": 8}


def test_a_new_label_and_a_line_that_is_none(tmp_path: Path) -> None:
    liver = np.zeros(GRID.shape, np.uint8)
    liver[0] = 1
    write_segmentation(tmp_path / "labels.nii.gz", {"liver": liver}, GRID, "itk-snap")
    write_mask(tmp_path / "labels.nii.gz", liver * 2, GRID)
    with pytest.raises(LabelError, match=r"expected names for the numbers \[2\] in .*labels\.nii\.gz"):
        read_segmentation(tmp_path / "labels.nii.gz", GRID)
    with (tmp_path / "labels.txt").open("a") as file:
        file.write("    2   255    0\n")
    with pytest.raises(
        LabelError, match=r"expected a label such as .* got '2   255    0' in .*labels\.txt:17"
    ):
        read_segmentation(tmp_path / "labels.nii.gz", GRID)
