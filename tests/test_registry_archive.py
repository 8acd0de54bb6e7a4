"""Archives and mirrors: one file or folder to carry a model, and what a hostile one may not do."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import small_registry as small

from registry import Registry
from registry.archive import MANIFEST, export, import_archive
from registry.errors import (
    ArchiveError,
    ExistsError,
    IntegrityError,
    InvalidNameError,
    RegistryError,
    WeightsError,
)
from registry.mirror import open_store, pull, push
from registry.records import canonical, digest_of
from registry.rows import Row
from registry.store import Store


@pytest.fixture
def here(tmp_path: Path) -> Registry:
    registry = Registry.open(tmp_path / "here")
    small.rounds(registry)
    return registry


@pytest.fixture
def there(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "there")


@pytest.fixture
def archive(here: Registry, tmp_path: Path) -> Path:
    export(here, "abdomen:3", tmp_path / "model.ctune")
    return tmp_path / "model.ctune"


def empty(registry: Registry) -> bool:
    return not registry.versions() and not list(registry.store.digests())


def rewrite(
    archive: Path, change: Callable[[str, bytes], bytes | None], *extra: tuple[tarfile.TarInfo, bytes]
) -> None:
    """The archive with members changed (None leaves one out), and `extra` ones at its end."""
    with tarfile.open(archive) as file:
        members = [(m.name, file.extractfile(m).read()) for m in file]  # type: ignore[union-attr]
    with tarfile.open(archive, "w") as file:
        for name, data in members:
            new = change(name, data)
            if new is not None:
                header = tarfile.TarInfo(name)
                header.size = len(new)
                file.addfile(header, io.BytesIO(new))
        for header, data in extra:
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))


def same(_: str, data: bytes) -> bytes:
    return data


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header


def test_a_model_arrives_whole_and_a_second_time_adds_nothing(
    here: Registry, there: Registry, archive: Path
) -> None:
    first = import_archive(there, archive, actor="ada")
    assert (first.name, first.version) == ("abdomen", 3)
    assert there.resolve("abdomen:3") == here.resolve("abdomen:3")
    assert there.load("abdomen:3").head_weights("aorta") == here.load("abdomen:3").head_weights("aorta")
    second = import_archive(there, archive, actor="ada")
    assert (second.records, second.blobs, second.bytes) == (0, 0, 0)
    assert there.verify().clean


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (member("/etc/passwd"), "not one of ours"),
        (member("../../x"), "not one of ours"),
        (member("sha256/../../../x"), "not one of ours"),
        (member("sha256/" + "a" * 64, tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (member("sha256/" + "a" * 64, tarfile.LNKTYPE, MANIFEST), "a link"),
        (member("sha256/" + "a" * 64, tarfile.FIFOTYPE), "no plain file"),
        (member("sha256/" + "a" * 64, tarfile.CHRTYPE), "no plain file"),
        (member(MANIFEST), "there twice"),
        (member("sha256/" + "A" * 64), "not one of ours"),
    ],
    ids=["absolute", "parent", "parent inside", "symbolic link", "hard link", "pipe", "device", "twice", "capitals"],
)  # fmt: skip
def test_a_hostile_member_is_refused_before_anything_is_written(
    there: Registry, archive: Path, tmp_path: Path, header: tarfile.TarInfo, why: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    rewrite(archive, same, (header, b""))
    with pytest.raises(ArchiveError, match=why) as caught:
        import_archive(there, archive, actor="ada")
    assert "nothing was taken in" in str(caught.value)
    assert empty(there) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "organ",
    ["../../../../victim/liver", "/tmp/liver", "Liver", "", "_liver", "l\u200biver", "liver.nii", "a" * 65],
)
def test_a_class_that_could_be_a_path_is_refused_before_anything_is_written(
    here: Registry, there: Registry, tmp_path: Path, organ: str
) -> None:
    """Files are named after classes wherever a model predicts, and a mask in a zip is unpacked by others."""
    file_evil(here, organ)
    export(here, "evil", tmp_path / "evil.tar")
    with pytest.raises(
        InvalidNameError, match=r"expected a class of 1 to 64 of a-z.* in the head in .*evil.tar, got"
    ):
        import_archive(there, tmp_path / "evil.tar", actor="ada")
    push(here, tmp_path / "mirror", ["evil"])
    with pytest.raises(InvalidNameError, match="do not trust a model from elsewhere"):
        pull(there, tmp_path / "mirror", actor="ada")
    assert empty(there) and not there.catalog.records()
    # One that is here already is found by a look, and never served.
    assert [f"sha256:{here.resolve('evil')[:12]}" in line for line in here.verify().problems] == [False, True]
    with pytest.raises(InvalidNameError, match=r"in the model in sha256:.*, got"):
        here.load("evil")


def file_evil(registry: Registry, organ: str) -> None:
    """The model `evil` with a head of `organ`, filed as a program that does not look would file it."""
    loaded = registry.load("abdomen:1")
    head = loaded.heads["liver"].model_copy(update={"class_name": organ})
    model = loaded.record.model_copy(update={"heads": {organ: digest_of(canonical(head))}})
    for record, subject in ((head, organ), (model, None)):
        body = canonical(record)
        registry.catalog.add_record(Row(digest_of(body), record.kind, subject, body, {}, "2024", "2024"))
    registry.add_version("evil", digest_of(canonical(model)))


def pickle_bomb(marker: Path) -> bytes:
    """A pickle, put together by hand, that makes the folder `marker` when somebody loads it: os.mkdir(marker)."""
    path = str(marker).encode()
    return b"\x80\x02cos\nmkdir\nX" + len(path).to_bytes(4, "little") + path + b"\x85R."


def test_a_pickle_in_the_place_of_weights_is_never_loaded(here: Registry, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="safetensors"):
        bomb = here.put(pickle_bomb(tmp_path / "exploded"))
        record = here.load("abdomen:1").heads["aorta"]
        here.register(record.model_copy(update={"weights": bomb}))
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_an_archive_is_never_loaded(here: Registry, there: Registry, tmp_path: Path) -> None:
    # With the right digests all the way up: a registry that did not look made the archive.
    bomb, model = pickle_bomb(tmp_path / "exploded"), here.load("abdomen:1")
    record = model.heads["aorta"].model_copy(update={"weights": here.put(bomb)})
    body = canonical(record)
    row = Row(digest_of(body), "head", "aorta", body, {}, "2024", "2024")
    here.catalog.add_record(row)
    here.add_version("trap", small.model(here, model.record.base, {"aorta": row.digest}))
    export(here, "trap:1", tmp_path / "trap.ctune")
    with pytest.raises(WeightsError, match="got a pickle, which could run code and is never loaded"):
        import_archive(there, tmp_path / "trap.ctune", actor="ada")
    assert not (tmp_path / "exploded").exists() and not there.versions() and there.verify().clean


def test_one_flipped_bit_is_found_and_no_version_appears(there: Registry, archive: Path) -> None:
    def flip(name: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 4000 and name != MANIFEST else data

    rewrite(archive, flip)
    with pytest.raises((IntegrityError, ArchiveError)):
        import_archive(there, archive, actor="ada")
    assert not there.versions() and there.verify().clean


def test_a_missing_member_is_named(there: Registry, archive: Path, here: Registry) -> None:
    blob = here.load("abdomen:3").heads["aorta"].weights
    rewrite(archive, lambda name, data: None if name.endswith(blob) else data)
    with pytest.raises(ArchiveError, match=f"expected sha256:{blob[:12]} in .*its manifest lists it"):
        import_archive(there, archive, actor="ada")
    assert not there.versions()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_a_truncated_archive_is_refused(there: Registry, archive: Path, share: float) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share) // 512 * 512 + 7])
    with pytest.raises(RegistryError):
        import_archive(there, archive, actor="ada")
    assert not there.versions() and there.verify().clean


def test_a_version_that_is_another_model_here_is_never_replaced(there: Registry, archive: Path) -> None:
    base = small.base(there, seed=3)
    for seed in (1, 2, 3):
        there.add_version(
            "abdomen", small.model(there, base, {"liver": small.head(there, base, "liver", seed)})
        )
    before = there.resolve("abdomen:3")
    with pytest.raises(ExistsError, match="abdomen:3"):
        import_archive(there, archive, actor="ada")
    assert there.resolve("abdomen:3") == before
    assert import_archive(there, archive, actor="ada", rename="theirs").name == "theirs"


def test_only_what_is_missing_travels_to_a_mirror(here: Registry, there: Registry, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    first = push(here, mirror, ["abdomen:1"])[0]
    assert first.blobs == 4
    second = push(here, mirror, ["abdomen:2"])[0]
    assert (second.blobs, second.records) == (1, 2)
    assert push(here, mirror, ["abdomen:2"])[0].bytes == 0
    pull(there, mirror, actor="ada")
    assert [str(version) for version in there.versions()] == ["abdomen:1", "abdomen:2"]
    assert there.verify().clean


def test_evaluations_of_others_stay_in_a_mirror(here: Registry, there: Registry, tmp_path: Path) -> None:
    mirror, ref = tmp_path / "mirror", tmp_path / "mirror" / "refs" / "abdomen" / "1.json"
    push(here, mirror, ["abdomen:1"])
    pull(there, mirror, actor="ada")
    model = here.resolve("abdomen:1")
    theirs = small.evaluate(there, model, {"liver": [0.9, 0.8]})
    push(there, mirror)
    before = ref.stat().st_ino
    assert push(here, mirror, ["abdomen:1"])[0].records == 0
    assert ref.stat().st_ino == before, "nothing was gained, nothing is written"
    ours = small.evaluate(here, model, {"liver": [0.7, 0.6]})
    assert push(here, mirror, ["abdomen:1"])[0].records == 1
    third = Registry.open(tmp_path / "third")
    pull(third, mirror, actor="ada")
    assert {row.digest for row in third.catalog.records("evaluation")} == {ours, theirs}
    assert third.verify().clean


def test_what_others_added_to_a_mirror_is_looked_at_before_it_is_carried_on(
    here: Registry, there: Registry, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    push(here, mirror, ["abdomen:1"])
    pull(there, mirror, actor="ada")
    theirs = small.evaluate(there, here.resolve("abdomen:1"), {"liver": [0.9, 0.8]})
    push(there, mirror)
    small.evaluate(here, here.resolve("abdomen:1"), {"liver": [0.7, 0.6]})
    path, ref = mirror / "blobs" / "sha256" / theirs[:2] / theirs, mirror / "refs" / "abdomen" / "1.json"
    before = ref.read_bytes()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"0.9", b"1.0"))
    with pytest.raises(IntegrityError, match=f"expected the record sha256:{theirs[:12]}, got bytes of"):
        push(here, mirror, ["abdomen:1"])
    assert ref.read_bytes() == before


def test_a_mirror_that_holds_another_model_under_the_version_is_left_alone(
    here: Registry, tmp_path: Path
) -> None:
    mirror, stranger = tmp_path / "mirror", Registry.open(tmp_path / "stranger")
    base = small.base(stranger, seed=3)
    stranger.add_version(
        "abdomen", small.model(stranger, base, {"liver": small.head(stranger, base, "liver", 8)})
    )
    push(stranger, mirror)
    with pytest.raises(ExistsError, match="it is another model there; a version never changes"):
        push(here, mirror, ["abdomen:1"])
    arrived = Registry.open(tmp_path / "arrived")
    pull(arrived, mirror, actor="ada")
    assert arrived.resolve("abdomen:1") == stranger.resolve("abdomen:1")
    with pytest.raises(ExistsError):
        pull(here, mirror, actor="ada")
    assert here.resolve("abdomen:1") != stranger.resolve("abdomen:1")


@pytest.mark.parametrize("url", ["{}/mirror", "local://{}/mirror"], ids=["folder", "URL"])
def test_a_transfer_that_was_cut_off_goes_on_where_it_stopped(
    here: Registry, there: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    where = url.format(tmp_path)
    kind = type(open_store(where))
    write, sent = kind.write, list[str]()

    def cut_off_at_the_third(self: Store, digest: str, chunks: Iterable[bytes]) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        write(self, digest, chunks)
        sent.append(digest)

    with monkeypatch.context() as cut:
        cut.setattr(kind, "write", cut_off_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            push(here, where, ["abdomen:1"])
    pull(there, where, actor="ada")
    assert not there.versions()  # what has no manifest yet is not there
    rest = push(here, where, ["abdomen:1"])[0]
    assert rest.blobs == 4 - len(sent)
    pull(there, where, actor="ada")
    assert there.resolve("abdomen:1") == here.resolve("abdomen:1") and there.verify().clean


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:50]])
def test_a_mirror_with_a_damaged_blob_brings_nothing(
    here: Registry, there: Registry, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    push(here, tmp_path / "mirror", ["abdomen:1"])
    blob = small.blob_path(here, tmp_path / "mirror", here.load("abdomen:1").heads["aorta"].weights)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(damage(whole))
    with pytest.raises(IntegrityError, match=f"expected the blob sha256:{blob.name[:12]}") as told:
        pull(there, tmp_path / "mirror", actor="ada")
    assert told.value.exit_code == 4 and not there.versions() and there.verify().clean
    assert there.store.leftovers(0.0) == []
    blob.write_bytes(whole)
    assert pull(there, tmp_path / "mirror", actor="ada")[0].version == 1


def test_a_damaged_blob_is_never_carried_on(here: Registry, tmp_path: Path) -> None:
    blob = small.blob_path(here, tmp_path / "here", here.load("abdomen:3").heads["aorta"].weights)
    blob.chmod(0o644)
    blob.write_bytes(b"\x01" + blob.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=f"expected the blob sha256:{blob.name[:12]}"):
        export(here, "abdomen:3", tmp_path / "model.ctune")
    with pytest.raises(IntegrityError, match=f"expected the blob sha256:{blob.name[:12]}"):
        push(here, tmp_path / "mirror", ["abdomen:3"])
    assert not list(tmp_path.glob("*model.ctune*")) and open_store(tmp_path / "mirror").refs() == []
