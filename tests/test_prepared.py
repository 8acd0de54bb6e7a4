"""Prepared cases: made once, read by memory map, made again when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_network import GRID, volume

from ctune.config import Preprocessing
from ctune.data.prepared import PreparedCase, prepare
from ctune.data.preprocess import labels_to_network, to_network
from ctune.types import Case

SETTINGS = Preprocessing(spacing_mm=(2.5, 2.5, 2.5), crop_foreground=False)


class Loader:
    """Reads the CT and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Case:
        self.calls += 1
        return Case("c", volume(0)[0], GRID)


def make(
    folder: Path, loader: Loader, classes: tuple[str, ...] = ("liver",), settings: Preprocessing = SETTINGS
) -> PreparedCase:
    masks = volume(0)[1]
    return prepare("c", loader, "f" * 64, {name: masks[name] for name in classes}, settings, folder)


def test_it_is_what_preprocessing_makes(tmp_path: Path) -> None:
    made = make(tmp_path, Loader())
    image, frame = to_network(Case("c", volume(0)[0], GRID), SETTINGS)
    assert np.array_equal(made.image, image)
    assert np.array_equal(made.labels["liver"], labels_to_network(volume(0)[1]["liver"], frame))
    assert isinstance(made.image, np.memmap) and isinstance(made.labels["liver"], np.memmap)


def test_the_ct_is_read_once(tmp_path: Path) -> None:
    loader = Loader()
    make(tmp_path, loader)
    make(tmp_path, loader)
    assert loader.calls == 1
    make(tmp_path, loader, ("liver", "spleen"))
    make(tmp_path, loader, ("liver", "spleen"))
    assert loader.calls == 2, "only for the mask that was missing"


def test_other_settings_are_another_case(tmp_path: Path) -> None:
    loader = Loader()
    a = make(tmp_path, loader)
    b = make(tmp_path, loader, settings=Preprocessing(spacing_mm="native", crop_foreground=False))
    assert loader.calls == 2 and a.key != b.key and a.image.shape != b.image.shape


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    loader = Loader()
    good = np.array(make(tmp_path, loader).image)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(make(tmp_path, loader).image, good) and loader.calls == 2
    assert not list(tmp_path.glob("*.tmp*"))
