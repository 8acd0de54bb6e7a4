"""The pool: whole cases or none, annotations that never change, and provenance for each."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import signal
import stat
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from small_sets import AFFINE, GRID, SHAPE, box, ct, files, save

from ctune.data.files import read_json, sha256_of
from ctune.data.nifti import write_mask
from ctune.data.pool import Pool
from ctune.errors import GeometryError, ImageFileError, LabelError, PoolError, UnknownClassError, UsageError
from ctune.types import UNLABELLED, Mask, Source, Split

fork = multiprocessing.get_context("fork")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "outside" / "scan.nii.gz", ct())


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool")


def whole(pool: Pool) -> None:
    """Everything that the pool shows reads, and agrees with its digest."""
    for case in pool.cases():
        pool.load(case.id)
        for record in pool.annotations(case.id):
            pool.read(record)


def visible(pool: Pool) -> list[str]:
    return sorted(p.name for p in pool.root.iterdir() if p.name != ".lock")


def test_a_case_keeps_its_own_bytes_grid_and_origin(pool: Pool, image: Path) -> None:
    record = pool.add_case("scan", image, Split.TEST, origin={"data set": "toy"})
    assert record == pool.case("scan") == pool.cases()[0]
    assert (record.split, record.origin, record.notes) == (Split.TEST, {"data set": "toy"}, ())
    assert record.image.read_bytes() == image.read_bytes()
    assert record.sha256 == sha256_of(image)
    # The grid went through JSON: not a bit of the affine may change.
    assert record.grid == GRID == pool.grid("scan")
    np.testing.assert_array_equal(pool.load("scan").volume, ct())
    assert pool.cases(Split.POOL) == [] and len(pool.cases(Split.TEST)) == 1


def test_an_uncompressed_ct_stays_uncompressed(pool: Pool, tmp_path: Path) -> None:
    record = pool.add_case("plain", save(tmp_path / "x.nii", ct()), Split.POOL)
    assert record.image.name == "ct.nii"
    np.testing.assert_array_equal(pool.load("plain").volume, ct())


def test_everything_in_the_pool_is_read_only(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
    pool.annotate("scan", "liver", box(1), source=Source.REVISED, author="ann")
    kept = [p for p in pool.root.rglob("*") if p.is_file() and p.name != ".lock"]
    assert len(kept) == 6
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o444}


@pytest.mark.parametrize(
    "case_id", ["", ".hidden", "a/b", "../up", "with blank", "x" * 129, "umlaut-ä", "-dash"]
)
def test_an_id_that_cannot_be_a_folder_is_refused(pool: Pool, image: Path, case_id: str) -> None:
    expected = (
        f"letters, digits, '.', '_' and '-' that starts with a letter or digit, got {case_id!r}; rename"
    )
    with pytest.raises(PoolError, match=re.escape(expected)):
        pool.add_case(case_id, image, Split.POOL)
    assert case_id not in pool
    assert visible(pool) == []


def test_an_id_is_taken_in_any_case_of_letters(pool: Pool, image: Path) -> None:
    pool.add_case("Case_A", image, Split.POOL)
    for other in ("Case_A", "case_a"):
        with pytest.raises(
            PoolError, match=f"expected a new case id, got '{other}' while the pool has 'Case_A'"
        ):
            pool.add_case(other, image, Split.POOL)
    assert visible(pool) == ["Case_A"]


def test_an_unknown_case_is_named_with_its_nearest(pool: Pool, image: Path) -> None:
    pool.add_case("case_17", image, Split.POOL)
    with pytest.raises(PoolError, match=r"expected a case of the pool, got 'case17'; did you mean 'case_17'"):
        pool.case("case17")
    for ask in (pool.load, pool.grid, pool.annotations):
        with pytest.raises(PoolError, match=r"expected a case of the pool, got '../case_17'"):
            ask("../case_17")


def test_provenance_is_kept_for_every_annotation(pool: Pool, image: Path) -> None:
    pool.add_case(
        "scan", image, Split.POOL, {"IVC": box(0)}, author="atlas", notes={"IVC": "from ivc.nii.gz"}
    )
    pool.annotate(
        "scan", "postcava", box(1), source=Source.PREDICTED, author="ctune", round=2, model="ab" * 32
    )
    pool.annotate(
        "scan", "postcava", box(2), source=Source.REVISED, author="ann", round=2, seconds=41.5, note="checked"
    )
    first, second, third = pool.annotations("scan", "postcava")
    assert [(r.source, r.author, r.round, r.model, r.seconds, r.note) for r in (first, second, third)] == [
        (Source.ORIGINAL, "atlas", 0, None, None, "from ivc.nii.gz"),
        (Source.PREDICTED, "ctune", 2, "ab" * 32, None, ""),
        (Source.REVISED, "ann", 2, None, 41.5, "checked"),
    ]
    assert {r.case_id for r in (first, second, third)} == {"scan"}
    assert first.created < second.created < third.created and first.created.endswith("+00:00")
    assert third.path == "scan/annotations/postcava/revised-0003.nii.gz"
    assert third.sha256 == sha256_of(pool.root / third.path)
    np.testing.assert_array_equal(pool.read(third).mask, box(2))


def test_a_later_annotation_leaves_the_earlier_ones_as_they_are(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
    before = files(pool.root)
    for x in range(1, 5):
        pool.annotate("scan", "liver", box(x), source=Source.ORIGINAL, author="ann")
    after = files(pool.root)
    assert {name: after[name] for name in before} == before
    assert [pool.read(r).mask.argmax(axis=0).max() for r in pool.annotations("scan")] == [0, 1, 2, 3, 4]


def test_the_newest_comes_last_although_the_clock_went_back(
    pool: Pool, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
    monkeypatch.setattr("ctune.data.annotations.now", lambda: "1999-01-01T00:00:00+00:00")
    newest = pool.annotate("scan", "liver", box(1), source=Source.REVISED, author="ann")
    assert pool.annotations("scan", "liver")[-1] == newest


@pytest.mark.parametrize("width", [3, 0], ids=["there", "absent where it was judged"])
def test_what_nobody_has_judged_stays_so(pool: Pool, image: Path, width: int) -> None:
    mask = box(0, width)
    mask[:, :, 7] = UNLABELLED
    pool.add_case("scan", image, Split.POOL, {"liver": mask})
    np.testing.assert_array_equal(pool.read(pool.annotations("scan")[0]).mask, mask)


def test_a_mask_that_was_changed_afterwards_is_not_read(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
    (record,) = pool.annotations("scan")
    path = pool.root / record.path
    path.chmod(0o644)
    write_mask(path, box(1), GRID)
    expected = f"case scan, liver: expected the original annotation as it was written (sha256 {record.sha256[:12]}), got"
    with pytest.raises(PoolError, match=re.escape(expected)):
        pool.read(record)
    path.unlink()
    with pytest.raises(PoolError, match=r"got no file in .*restore the file from a backup"):
        pool.read(record)


def test_a_ct_that_was_changed_afterwards_is_not_read(pool: Pool, image: Path) -> None:
    record = pool.add_case("scan", image, Split.POOL)
    record.image.chmod(0o644)
    save(record.image, ct(1))
    with pytest.raises(
        PoolError, match=r"case scan: expected the CT that was imported .*, got .*restore the file"
    ):
        pool.load("scan")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"source": "guessed"}'])
def test_a_damaged_record_is_one_line(pool: Pool, image: Path, text: str) -> None:
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
    for path, ask in (
        (pool.root / "scan/annotations/liver/original-0001.json", lambda: pool.annotations("scan")),
        (pool.root / "scan/case.json", lambda: pool.case("scan")),
    ):
        path.chmod(0o644)
        path.write_text(text)
        with pytest.raises(
            PoolError, match=rf"expected a whole record in {path}, got one that does not read"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_masks_that_are_none_are_refused(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.POOL)

    def annotate(mask: Mask, name: str = "liver", author: str = "ann") -> None:
        pool.annotate("scan", name, mask, source=Source.REVISED, author=author)

    with pytest.raises(
        GeometryError, match=r"case scan, liver: expected a mask of the CT's shape \(12, 10, 8\), got \(12,"
    ):
        annotate(box(0)[:, :, :4])
    with pytest.raises(
        LabelError, match=r"case scan, liver: expected 0, 1 and 255 in a mask, got \[2\]; write"
    ):
        annotate(box(0, value=2))
    with pytest.raises(UsageError, match="expected the name of an author, got ' '"):
        annotate(box(0), author=" ")
    with pytest.raises(UnknownClassError, match=r"got '\.\./\.\.'"):
        annotate(box(0), name="../..")
    assert pool.annotations("scan") == [] and files(pool.root).keys() == {"scan/ct.nii.gz"}


def test_a_case_whose_last_mask_is_bad_leaves_nothing_behind(pool: Pool, image: Path) -> None:
    with pytest.raises(LabelError, match="case scan, spleen: expected 0, 1 and 255"):
        pool.add_case("scan", image, Split.POOL, {"liver": box(0), "spleen": box(0, value=7)})
    assert visible(pool) == []
    pool.add_case("scan", image, Split.POOL, {"liver": box(0)})


def test_a_flipped_bit_in_a_compressed_ct_is_found(pool: Pool, tmp_path: Path) -> None:
    # Stored without compression inside gzip, so that only the checksum can tell.
    raw = bytearray(gzip.compress(save(tmp_path / "x.nii", ct()).read_bytes(), compresslevel=0))
    raw[len(raw) // 2] ^= 1
    path = tmp_path / "flipped.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(
        ImageFileError, match=r"case scan: expected a whole image in .*flipped.nii.gz, got one that is cut"
    ):
        pool.add_case("scan", path, Split.POOL)
    assert visible(pool) == []


def test_masks_are_read_one_at_a_time(pool: Pool, image: Path) -> None:
    seen: list[weakref.ref[Mask]] = []

    class Lazy(Mapping[str, Mask]):
        def __getitem__(self, name: str) -> Mask:
            assert sum(ref() is not None for ref in seen) <= 1, (
                "more than one earlier mask is still in memory"
            )
            mask = box(int(name.split("_")[1]))
            seen.append(weakref.ref(mask))
            return mask

        def __iter__(self) -> Iterator[str]:
            return (f"class_{i}" for i in range(9))

        def __len__(self) -> int:
            return 9

    pool.add_case("scan", image, Split.POOL, Lazy())
    assert len(seen) == len(pool.annotations("scan")) == 9


def test_processes_that_annotate_at_once_lose_nothing(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.POOL)

    def work(author: str) -> None:
        for x in range(6):
            pool.annotate("scan", "liver", box(x), source=Source.REVISED, author=author)

    workers = [fork.Process(target=work, args=(name,)) for name in ("ann", "bob", "cem")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = pool.annotations("scan", "liver")
    assert sorted(r.author for r in records) == ["ann"] * 6 + ["bob"] * 6 + ["cem"] * 6
    assert [Path(r.path).name for r in records] == [f"revised-{n:04d}.nii.gz" for n in range(1, 19)]
    for name in ("ann", "bob", "cem"):
        assert [int(pool.read(r).mask.argmax(axis=0).max()) for r in records if r.author == name] == list(
            range(6)
        )


def test_processes_that_add_one_case_at_once_leave_one(pool: Pool, image: Path) -> None:
    def work(organ: str) -> None:
        try:
            pool.add_case("scan", image, Split.POOL, {organ: box(0)})
        except PoolError:
            os._exit(3)

    workers = [fork.Process(target=work, args=(name,)) for name in ("liver", "spleen", "aorta")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(w.exitcode or 0 for w in workers) == [0, 3, 3]
    assert len(pool.annotations("scan")) == 1
    whole(pool)


def killed_at(point: int, work: Callable[[], None]) -> bool:
    """Run `work` in a process that is killed just before its `point`-th step on the disk; False when it ran through."""

    def steps(step: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal point
            point -= 1
            if point == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)

        return counted

    def run() -> None:
        for name in ("fsync", "replace", "rename", "chmod"):
            setattr(os, name, steps(getattr(os, name)))
        work()

    process = fork.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_kill_while_a_case_is_added_leaves_all_of_it_or_nothing(tmp_path: Path, image: Path) -> None:
    masks = {"liver": box(0), "spleen": box(4)}
    for point in range(1, 200):
        pool = Pool.create(tmp_path / f"pool_{point}")
        killed = killed_at(point, lambda pool=pool: pool.add_case("scan", image, Split.POOL, masks))  # type: ignore[misc]
        if pool.cases():
            whole(pool)
            assert [r.class_name for r in pool.annotations("scan")] == ["liver", "spleen"]
        else:
            pool.add_case("scan", image, Split.POOL, masks)
        assert visible(pool) == ["scan"], "the next one who adds a case sweeps up"
        if not killed:
            break
    assert 10 < point < 199, "the kill has met every step"


def test_a_kill_while_annotating_leaves_all_of_it_or_nothing(tmp_path: Path, image: Path) -> None:
    for point in range(1, 100):
        pool = Pool.create(tmp_path / f"pool_{point}")
        pool.add_case("scan", image, Split.POOL, {"liver": box(0)})
        killed = killed_at(
            point,
            lambda pool=pool: pool.annotate("scan", "liver", box(1), source=Source.REVISED, author="ann"),  # type: ignore[misc]
        )
        whole(pool)
        assert len(pool.annotations("scan")) in (1, 2)
        last = pool.annotate("scan", "liver", box(2), source=Source.REVISED, author="ann")
        assert pool.annotations("scan")[-1] == last
        names = {p.name.split(".")[0] for p in (pool.root / "scan/annotations/liver").iterdir()}
        assert names == {Path(r.path).name.split(".")[0] for r in pool.annotations("scan")}, "swept up"
        if not killed:
            break
    assert 5 < point < 99


def test_an_oblique_grid_comes_back_bit_for_bit(pool: Pool, tmp_path: Path) -> None:
    turn = np.array([[0.8, -0.6, 0, 0.1], [0.6, 0.8, 0, 1 / 3], [0, 0, 1, 1e5 / 7], [0, 0, 0, 1]])
    affine = (turn @ AFFINE).astype(np.float32).astype(np.float64)
    record = pool.add_case(
        "oblique", save(tmp_path / "o.nii.gz", ct(), affine), Split.POOL, {"liver": box(0)}
    )
    assert record.grid.affine.tobytes() == affine.tobytes()
    assert record.grid.shape == SHAPE
    np.testing.assert_array_equal(pool.read(pool.annotations("oblique")[0]).mask, box(0))


def test_a_header_that_contradicts_itself_is_noted(pool: Pool, tmp_path: Path) -> None:
    import nibabel as nib

    odd = nib.Nifti1Image(ct(), AFFINE)
    odd.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), code=1)
    nib.save(odd, tmp_path / "odd.nii.gz")
    record = pool.add_case("odd", tmp_path / "odd.nii.gz", Split.POOL)
    assert len(record.notes) == 1 and "sform and qform disagree" in record.notes[0]
    assert read_json(pool.root / "odd" / "case.json")["notes"] == list(record.notes)


def test_opening_what_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(
        PoolError, match=r"expected a pool in .*nowhere, found no such folder; run `ctune init` first"
    ):
        Pool.open(tmp_path / "nowhere")


def test_the_record_of_a_case_is_plain_json(pool: Pool, image: Path) -> None:
    pool.add_case("scan", image, Split.VALIDATION)
    about = json.loads((pool.root / "scan" / "case.json").read_text())
    assert about["format"] == 1 and about["split"] == "validation" and about["shape"] == list(SHAPE)
