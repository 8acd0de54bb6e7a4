"""Text vectors of class names: what a text head starts from.

A small table is part of the package: ``text_vectors.safetensors`` holds one vector a class and their common
mean, ``text_vectors.json`` says which encoder made them, of which names, and the table's sha256. The text is
the bare class name with blanks for underscores. Encoders put all anatomy close together, so the mean of the
table is taken off before the vector is normalised; what is left tells classes apart.
``scripts/compute_text_vectors.py`` makes the table.

Other classes need the encoder itself: the extra ``text`` and a sentence-transformers folder given by path.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from ctune.classes import canonical
from ctune.errors import ModelError, UnknownClassError, UsageError

DIMENSION = 384
TABLE = Path(__file__).with_name("text_vectors.safetensors")
ABOUT = Path(__file__).with_name("text_vectors.json")

_PROBE = "liver"
_ALIKE = 0.999


@dataclass(frozen=True, eq=False)
class TextTable:
    """The committed vectors.

    vectors: (n, 384) float32 of length 1, the mean taken off; row i is names[i]. mean: (384,) float32.
    about: the encoder, how the text was made, and the table's sha256.
    """

    names: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    about: dict[str, Any]


def text_vector(class_name: str, encoder_path: str | Path | None = None) -> npt.NDArray[np.float32]:
    """The vector of a class name, (384,) float32 of length 1: from the table, else from the encoder.

    encoder_path: a sentence-transformers folder with the table's encoder (all-MiniLM-L6-v2), read offline.
    Raises UnknownClassError for a class that is not in the table when no encoder is given, UsageError when
    the extra `text` is not installed, ModelError when the folder holds another encoder or the table is
    damaged.

    >>> text_vector("IVC").shape, text_vector("IVC") @ text_vector("postcava") > 0.999
    ((384,), np.True_)
    """
    name, table = canonical(class_name), text_table()
    if name in table.names:
        known: npt.NDArray[np.float32] = table.vectors[table.names.index(name)].copy()
        return known
    if encoder_path is None:
        hint = difflib.get_close_matches(name, table.names, n=1, cutoff=0.0)[0]
        raise UnknownClassError(
            f"expected a class with a text vector, got {class_name!r}; the nearest that has one is {hint!r}; "
            f"rename the class, take a pyramid head, or put the folder of the encoder "
            f"{table.about['encoder']['name']} into heads.text_encoder (pip install 'ctune[text]')"
        )
    vectors = centred(encode([_PROBE, name], encoder_path), table.mean)
    likeness = float(vectors[0] @ table.vectors[table.names.index(_PROBE)])
    if likeness < _ALIKE:
        raise ModelError(
            f"expected the encoder {table.about['encoder']['name']} in {encoder_path}, got one that puts "
            f"{_PROBE!r} at cosine {likeness:.3f} to the table's; pass the folder of that encoder"
        )
    vector: npt.NDArray[np.float32] = vectors[1]
    return vector


@cache
def text_table() -> TextTable:
    """The committed table. Raises ModelError when its bytes are not those that its JSON speaks of."""
    about = json.loads(ABOUT.read_text(encoding="utf-8"))
    data = TABLE.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != about["sha256"]:
        raise ModelError(
            f"expected text vectors with sha256 {about['sha256'][:12]}, got {found[:12]} in {TABLE.name}; "
            f"install ctune again"
        )
    arrays = load(data)
    return TextTable(tuple(about["names"]), arrays["vectors"], arrays["mean"], about)


def centred(vectors: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors (n, D) minus `mean` (D,), each at length 1."""
    moved = vectors - mean
    unit: npt.NDArray[np.float32] = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return unit


def encode(names: Sequence[str], encoder_path: str | Path) -> npt.NDArray[np.float32]:
    """Encoder output (n, 384) float32 for class names.

    Each name is encoded by itself: padding beside a longer one would change its bits. Raises UsageError when
    sentence-transformers is not installed, ModelError when the folder holds no such encoder.
    """
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UsageError(
            "expected sentence-transformers for a class outside the table, found none; "
            "pip install 'ctune[text]'"
        ) from None
    if not (Path(encoder_path) / "modules.json").is_file():
        raise ModelError(f"expected a sentence-transformers folder (with modules.json), got {encoder_path}")
    encoder = SentenceTransformer(str(encoder_path), device="cpu", local_files_only=True)
    rows = [encoder.encode(name.replace("_", " "), convert_to_numpy=True) for name in names]
    vectors = np.stack(rows).astype(np.float32)
    if vectors.shape[1] != DIMENSION:
        raise ModelError(
            f"expected an encoder of {DIMENSION} dimensions in {encoder_path}, got {vectors.shape[1]}; "
            f"pass all-MiniLM-L6-v2"
        )
    return vectors
