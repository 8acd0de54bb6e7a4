"""Records: identity is content, what varies between identical runs is no part of it, events are a chain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_registry as small
from pydantic import ValidationError

from registry import BaseRecord, EvaluationRecord, HeadRecord, ModelRecord, Registry
from registry.errors import (
    IntegrityError,
    InvalidNameError,
    MismatchError,
    NotFoundError,
    RegistryError,
    WeightsError,
)
from registry.records import canonical, digest_of, read_record
from registry.weights import check_weights

ZERO = "0" * 64


def test_the_id_is_the_sha256_of_canonical_json() -> None:
    record = ModelRecord(base=ZERO, heads={"spleen": ZERO, "liver": ZERO}, note="Ærø")
    text = canonical(record).decode()
    assert (
        text.startswith('{"base":"000')
        and '"heads":{"liver":"0' in text
        and "Ærø" in text
        and " " not in text
    )
    assert json.loads(text) == record.model_dump(mode="json")
    assert digest_of(text.encode()) == hashlib.sha256(text.encode()).hexdigest()
    assert (
        canonical(ModelRecord(heads={"liver": ZERO, "spleen": ZERO}, note="Ærø", base=ZERO)) == text.encode()
    )


def test_records_are_frozen_and_know_their_fields() -> None:
    record = ModelRecord(base=ZERO, heads={})
    with pytest.raises(ValidationError):
        record.base = "1" * 64  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ModelRecord(base="liver", heads={})
    with pytest.raises(ValidationError):
        ModelRecord(base=ZERO, heads={}, color="red")  # type: ignore[call-arg]


def test_numbers_that_json_does_not_know_are_refused() -> None:
    bad = EvaluationRecord(model=ZERO, split="test", data={}, scores=({"dice": float("nan")},), summary={})
    with pytest.raises(
        RegistryError, match="expected finite numbers and Unicode text in the evaluation record"
    ):
        canonical(bad)


def test_a_record_of_another_version_is_told() -> None:
    data = json.dumps({"kind": "model", "format": 2}).encode()
    with pytest.raises(
        IntegrityError, match=r"to be one this version knows, got a problem at model.*; update ctune"
    ):
        read_record(data, digest_of(data))
    with pytest.raises(
        IntegrityError, match=r"expected the record sha256:000000000000, got bytes of sha256:"
    ):
        read_record(data, ZERO)


def test_a_class_has_a_name_that_can_be_a_files(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    on = small.base(registry)
    head = registry.record_of(small.head(registry, on, "liver", 1, cases=["a"]))
    base = registry.record_of(on)
    assert isinstance(head, HeadRecord) and isinstance(base, BaseRecord)
    used = head.annotations[0].model_copy(update={"class_name": "a/b"})
    before = registry.verify()
    for record, got in (
        (
            head.model_copy(update={"class_name": "../liver"}),
            "in the head in what is to be registered, got '../liver'",
        ),
        (head.model_copy(update={"annotations": (used,)}), "got 'a/b'"),
        (
            base.model_copy(update={"classes": ("liver", "Left Kidney")}),
            "in the base in .*, got 'Left Kidney'",
        ),
        (ModelRecord(base=on, heads={"": ZERO}), "in the model in .*, got ''"),
    ):
        with pytest.raises(InvalidNameError, match=got) as caught:
            registry.register(record)
        assert "rename the class" in str(caught.value)
    assert registry.verify() == before


def test_the_same_again_adds_nothing(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    on = small.base(registry)
    first = small.head(registry, on, "liver", 1)
    before = registry.verify()
    assert small.head(registry, on, "liver", 1) == first
    assert registry.verify() == before


def test_what_was_measured_is_no_part_of_the_identity(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    digest = small.head(registry, small.base(registry), "liver", 1)
    record = registry.record_of(digest)
    assert registry.register(record, measured={"seconds": 99.0, "device": "cuda"}) == digest
    assert registry.measured(digest) == {"seconds": 4.5, "device": "cpu"}


def test_a_round_of_four_text_heads_stores_what_changed(tmp_path: Path) -> None:
    """Beside a base of 62 M parameters (float32, 250 MB) a round adds under 2 MiB."""
    registry = Registry.open(tmp_path)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [62_000_000], "data_offsets": [0, 248_000_000]}}
    ).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(248_000_000)
    on = registry.register(
        BaseRecord(
            architecture="swin_unetr", settings={}, fingerprint=small.BASE_FINGERPRINT, weights=registry.put(weights),
            preprocessing={}, classes=("liver",), code_version="0.1", seed=0,
        )
    )  # fmt: skip
    del weights

    def size() -> int:
        return sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())

    def a_round(number: int) -> None:
        heads = {}
        for i, organ in enumerate(("stomach", "aorta", "postcava", "gall_bladder")):
            blob = registry.put(small.weights(100 * number + i, 16_153 * 4))
            record = HeadRecord(
                class_name=organ, head_kind="text", base=on, base_fingerprint=small.BASE_FINGERPRINT, fingerprint=ZERO,
                weights=blob, round=number, settings={}, seed=0, code_version="0.1",
            )  # fmt: skip
            heads[organ] = registry.register(record)
        registry.add_version("abdomen", small.model(registry, on, heads, round=number))

    before = size()
    assert before > 248_000_000
    a_round(1)
    assert size() - before < 2 * 2**20


def test_what_a_record_needs_comes_first(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    on = small.base(registry)
    with pytest.raises(
        IntegrityError, match=r"expected what the model needs to be registered first, sha256:000000000000 is"
    ):
        small.model(registry, on, {"liver": ZERO})
    good = registry.record_of(on)
    with pytest.raises(
        IntegrityError, match=r"expected the blob sha256:000000000000 to be here before what needs it"
    ):
        registry.register(good.model_copy(update={"weights": ZERO}))
    with pytest.raises(NotFoundError, match=r"expected a registered record, got sha256:000000000000"):
        registry.record_of(ZERO)
    with pytest.raises(IntegrityError, match=r"to be a model, it is a base; name a model"):
        registry.add_version("abdomen", on)


def _with_offsets(offsets: str) -> bytes:
    """A header of one tensor of a byte, and the byte."""
    header = f'{{"v": {{"data_offsets": [0, 1]}}, "w": {{"data_offsets": {offsets}}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + b"x"


PICKLE = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02ls\x94\x85\x94R\x94."


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (PICKLE, "got a pickle, which could run code and is never loaded"),
        (b"PK\x03\x04 torch.save", "got a pickle, which could run code and is never loaded"),
        (b"", "got bytes that begin b''"),
        (b"short", "got bytes that begin b'short'"),
        (b"\xff" * 64, "expected the weights"),
        ((8).to_bytes(8, "little") + b"no json!", "to be safetensors, got bytes that begin"),
        ((2).to_bytes(8, "little") + b"[]", "to be safetensors, got bytes that begin"),
        (_with_offsets('[0, "x"]'), "to be safetensors, got bytes that begin"),
        (_with_offsets('["x"]'), "to be safetensors, got bytes that begin"),
        (_with_offsets("[0, null]"), "to be safetensors, got bytes that begin"),
        (_with_offsets("[0, 1.0]"), "to be safetensors, got bytes that begin"),
        (_with_offsets("[0, true]"), "to be safetensors, got bytes that begin"),
        (small.weights(1)[:-5], "bytes as its header says, got"),
        (small.weights(1) + b"tail", "bytes as its header says, got"),
    ],
)
def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path, data: bytes, text: str) -> None:
    registry = Registry.open(tmp_path)
    on = small.base(registry)
    record = registry.record_of(small.head(registry, on, "liver", 1))
    with pytest.raises(WeightsError) as told:
        registry.register(record.model_copy(update={"weights": registry.put(data)}))
    assert text in str(told.value) and told.value.exit_code == 4


def test_what_claims_an_endless_header_is_not_read() -> None:
    def chunks() -> Iterator[bytes]:
        yield (200_000_000).to_bytes(8, "little")
        raise AssertionError("read on")

    with pytest.raises(WeightsError, match="to be safetensors, got bytes that begin"):
        check_weights(chunks(), 300_000_000, "the weights of a head")


def test_a_head_on_another_base_says_which_it_needs(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    one, two = small.base(registry), small.base(registry, seed=1, fingerprint="d" * 64)
    stray = small.head(registry, two, "aorta", 1, fingerprint="d" * 64)
    with pytest.raises(
        MismatchError,
        match=rf"the head of aorta \(sha256:{stray[:12]}\) needs the base of fingerprint dddddddddddd \(sha256:{two[:12]}\), "
        rf"got bbbbbbbbbbbb \(sha256:{one[:12]}\); compose each head with the base it was tuned on, or tune",
    ):
        small.model(registry, one, {"aorta": stray})
    with pytest.raises(
        MismatchError, match=r"the head of aorta says its base has the fingerprint dddddddddddd"
    ):
        small.head(registry, one, "aorta", 1, fingerprint="d" * 64)
    liver = small.head(registry, one, "liver", 1)
    with pytest.raises(MismatchError, match=r"the head that it has for aorta, sha256:.*, is one of liver"):
        small.model(registry, one, {"aorta": liver})


def test_a_model_is_loaded_with_its_parts(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    made = small.rounds(registry)
    loaded = registry.load("abdomen:2")
    assert loaded.digest == made[1] and sorted(loaded.heads) == sorted(small.ORGANS)
    assert loaded.base_weights() == small.weights(0, 9000) and loaded.head_weights("aorta") == small.weights(
        2001
    )
    with pytest.raises(IntegrityError, match="to be a model, it is a head"):
        registry.load(f"sha256:{loaded.record.heads['aorta']}")


def test_a_model_can_be_named_as_it_is_registered(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    on = small.base(registry)
    record = ModelRecord(base=on, heads={"liver": small.head(registry, on, "liver", 0)})
    assert registry.register(record, name="abdomen") == registry.resolve("abdomen:1")
    with pytest.raises(InvalidNameError, match="capitals are not told apart everywhere"):
        registry.register(ModelRecord(base=on, heads={}), name="Abdomen")
    with pytest.raises(IntegrityError, match="to be a model, it is a head; name a model"):
        head = registry.record_of(record.heads["liver"])
        registry.register(head.model_copy(update={"round": 7}), name="abdomen")
    assert len(registry.catalog.records()) == 3, "what cannot be named is not kept"
