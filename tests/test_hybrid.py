"""Hybrid annotation: who wins a voxel, and that one can always say who did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctune.errors import DataError
from ctune.hybrid import load_hybrid, merge, save_hybrid
from ctune.types import UNLABELLED, Annotation, AnnotationRecord, Source

SHAPE = (3, 2, 2)


def annotation(
    values: object, source: Source = Source.REVISED, *, round: int = 0, time: int = 0, author: str = "a"
) -> Annotation:
    mask = (
        np.array(values, dtype=np.uint8).reshape(SHAPE)
        if np.ndim(values)
        else np.full(SHAPE, values, dtype=np.uint8)
    )
    created = f"2026-01-01T00:00:{time:02d}"
    digest = f"{source}-{round}-{time}-{author}-{mask.tobytes().hex()}"
    return Annotation(AnnotationRecord("case", "liver", source, author, created, round, digest, "path"), mask)


def test_revised_beats_predicted_and_original_beats_both() -> None:
    found = [
        annotation(0, Source.PREDICTED, time=9),
        annotation(1, Source.REVISED, time=5),
        annotation(0, Source.ORIGINAL),
    ]
    merged = merge("case", {"liver": found[:2]})
    assert (merged.masks["liver"] == 1).all() and merged.records["liver"][0].source == "revised"
    assert (merge("case", {"liver": found}).masks["liver"] == 0).all()


def test_the_order_is_a_setting() -> None:
    found = [annotation(1, Source.REVISED), annotation(0, Source.ORIGINAL)]
    assert (merge("case", {"liver": found}, ("revised", "original")).masks["liver"] == 1).all()
    assert merge("case", {"liver": found}, ("predicted",)).masks == {}


def test_a_revision_of_some_slices_leaves_the_others_to_the_prediction() -> None:
    revised = np.full(SHAPE, UNLABELLED, dtype=np.uint8)
    revised[0] = 1
    merged = merge("case", {"liver": [annotation(revised), annotation(0, Source.PREDICTED)]})
    assert (merged.masks["liver"][0] == 1).all() and (merged.masks["liver"][1:] == 0).all()
    assert (merged.origin["liver"][0] == 1).all() and (merged.origin["liver"][1:] == 2).all()
    assert [r.source for r in merged.records["liver"]] == ["revised", "predicted"]


def test_a_class_without_an_annotation_is_not_there_and_so_never_background() -> None:
    assert merge("case", {"liver": [annotation(1)], "aorta": []}).masks.keys() == {"liver"}


def test_masks_of_other_shapes_are_refused() -> None:
    other = Annotation(annotation(1).record, np.zeros((1, 1, 1), dtype=np.uint8))
    with pytest.raises(DataError, match=r"case case, liver: expected annotations of one shape"):
        merge("case", {"liver": [annotation(UNLABELLED), other]})


def test_saved_and_loaded(tmp_path: Path) -> None:
    merged = merge("case", {"liver": [annotation(1)], "aorta": [annotation(0, Source.PREDICTED)]})
    save_hybrid(tmp_path, merged)
    again = load_hybrid(tmp_path)
    assert again.records == merged.records
    for name in ("liver", "aorta"):
        assert np.array_equal(again.masks[name], merged.masks[name]) and np.array_equal(
            again.origin[name], merged.origin[name]
        )
    (tmp_path / "hybrid.json").unlink()
    with pytest.raises(DataError, match=r"found no hybrid\.json"):
        load_hybrid(tmp_path)


values = st.lists(st.sampled_from([0, 1, UNLABELLED]), min_size=12, max_size=12)
annotations = st.lists(
    st.builds(
        annotation,
        values,
        st.sampled_from(list(Source)),
        round=st.integers(0, 3),
        time=st.integers(0, 5),
        author=st.sampled_from(["ann", "bob"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda a: a.record.sha256,
)


@settings(max_examples=200, deadline=None)
@given(found=annotations, order=st.permutations(list(Source)), shuffle=st.randoms())
def test_every_voxel_is_won_by_the_strongest_newest_annotation_that_covers_it(
    found: list[Annotation], order: list[Source], shuffle: object
) -> None:
    before = [a.mask.copy() for a in found]
    merged = merge("case", {"liver": found}, order)
    mask, origin, records = merged.masks["liver"], merged.origin["liver"], merged.records["liver"]
    by_digest = {a.record.sha256: a for a in found}
    for voxel in np.ndindex(SHAPE):
        covering = [a for a in found if a.mask[voxel] != UNLABELLED]
        if not covering:
            assert mask[voxel] == UNLABELLED and origin[voxel] == 0
            continue
        rank = min(order.index(a.record.source) for a in covering)
        same = [a for a in covering if order.index(a.record.source) == rank]
        winner = max(same, key=lambda a: (a.record.created, a.record.sha256))
        assert records[origin[voxel] - 1] == winner.record
        assert mask[voxel] == by_digest[winner.record.sha256].mask[voxel]
    assert all(np.array_equal(a.mask, b) for a, b in zip(found, before, strict=True)), "an input was changed"
    shuffled = list(found)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    again = merge("case", {"liver": shuffled}, order)
    assert np.array_equal(again.masks["liver"], mask) and again.records["liver"] == records
    assert merge("case", {"liver": [by_digest[r.sha256] for r in records]}, order).records["liver"] == records
