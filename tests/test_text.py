"""Text vectors: the committed table, what it covers, and what happens to a class outside it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ctune.classes import NINE_ORGANS, canonical
from ctune.errors import ModelError, UnknownClassError, UsageError
from ctune.model import text
from ctune.model.text import text_table, text_vector

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compute_text_vectors.py"
HAS_ENCODER = importlib.util.find_spec("sentence_transformers") is not None


def test_the_table_says_where_it_comes_from() -> None:
    about = text_table().about
    assert about["encoder"]["name"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert about["encoder"]["license"] == "Apache-2.0"
    assert len(about["encoder"]["weights_sha256"]) == len(about["sha256"]) == 64
    assert (SCRIPT.parent.parent / about["script"]) == SCRIPT


def test_the_table_covers_the_classes_it_should() -> None:
    spec = importlib.util.spec_from_file_location("compute_text_vectors", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    total = script.totalsegmentator_names()
    assert len(total) == len(set(total)) == 117
    names = set(text_table().names)
    assert {canonical(name) for name in total} <= names
    assert {*NINE_ORGANS, "liver_tumor", "pancreas_tumor", "anterior", "posterior_hippocampus"} <= names
    assert list(text_table().names) == script.class_names()


def test_vectors_are_centred_and_of_length_one() -> None:
    table = text_table()
    assert table.vectors.shape == (len(table.names), 384) and table.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(table.vectors, axis=1), 1.0, atol=1e-6)
    cosines = table.vectors @ table.vectors.T
    between = cosines[np.triu_indices(len(cosines), 1)]
    assert abs(between.mean()) < 0.02, (
        "with the mean taken off, two classes have nothing in common on average"
    )
    assert between.max() < 0.999, "no two classes share a vector"


def test_related_classes_lie_closer_than_unrelated_ones() -> None:
    liver, tumour, rib = (text_vector(n) for n in ("liver", "liver_tumor", "rib_left_3"))
    assert liver @ tumour > liver @ rib


def test_a_vector_is_found_by_any_name_of_the_class_and_is_the_callers_own() -> None:
    vector = text_vector("Inferior Vena Cava")
    assert vector.shape == (384,) and vector.dtype == np.float32
    vector[:] = 0
    assert text_vector("postcava") @ text_vector("IVC") == pytest.approx(1.0, abs=1e-6)


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(UnknownClassError) as error:
        text_vector("duodenumm")
    assert str(error.value) == (
        "expected a class with a text vector, got 'duodenumm'; the nearest that has one is 'duodenum'; "
        "rename the class, take a pyramid head, or put the folder of the encoder sentence-transformers/all-MiniLM-L6-v2 "
        "into heads.text_encoder (pip install 'ctune[text]')"
    )


@pytest.mark.skipif(HAS_ENCODER, reason="sentence-transformers is installed")
def test_without_the_extra_an_encoder_folder_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected sentence-transformers .* pip install 'ctune\[text\]'"):
        text_vector("left_ventricle", tmp_path)


@pytest.mark.skipif(not HAS_ENCODER, reason="needs the extra `text`")
def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a sentence-transformers folder"):
        text_vector("left_ventricle", tmp_path)


def test_a_damaged_table_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(text.TABLE.read_bytes())
    data[-1] ^= 1
    (tmp_path / "text_vectors.safetensors").write_bytes(data)
    monkeypatch.setattr(text, "TABLE", tmp_path / "text_vectors.safetensors")
    text_table.cache_clear()
    with pytest.raises(ModelError, match=r"expected text vectors with sha256 \w{12}, got \w{12}"):
        text_table()
    text_table.cache_clear()


def test_the_json_names_every_row() -> None:
    names = json.loads(text.ABOUT.read_text())["names"]
    assert len(names) == len(set(names)) == len(text_table().vectors)
    assert names == sorted(names)
