"""Find cases in data sets as they are published: which CT, which masks, what their numbers mean.

Nothing is read here but folders and tables; whether an image is one is found out when it is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ctune.data.labels import IGNORE, TOTALSEGMENTATOR, Labels, label_table
from ctune.errors import DataError, UsageError
from ctune.types import UNLABELLED, Source

_IMAGE = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_CHANNEL = re.compile(r"_(\d{4})$")
_CASE_IMAGES = ("ct.nii.gz", "ct.nii", "mri.nii.gz", "mri.nii")
_MASK_FOLDERS = ("segmentations", "annotations", "predictions")
_LISTS = (".txt", ".tsv", ".csv", ".lst")


@dataclass(frozen=True)
class FoundCase:
    """One case of a data set, before anything of it was read.

    image: its CT, None when there are masks alone. data_set: its name, for provenance.
    masks: {class as the data set calls it: file of that class alone}, or label_map: one file whose numbers `labels` names;
    `complete` says that `labels` names every number the file may hold, `ignore` is the number of what nobody has judged.
    source: of the masks. problem: why the case cannot be imported, "" when nothing is known against it.
    """

    id: str
    image: Path | None
    data_set: str
    masks: Mapping[str, Path] = field(default_factory=dict)
    label_map: Path | None = None
    labels: Labels = field(default_factory=dict)
    complete: bool = True
    ignore: int = UNLABELLED
    source: Source = Source.ORIGINAL
    problem: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Its classes as the data set calls them."""
        return (*self.masks, *(self.labels if self.label_map else ()))


def detect(src: Path) -> str:
    """The layout of a data set. Raises UsageError that lists what was looked for when none fits."""
    if not src.exists():
        raise UsageError(f"expected a data set or an image, found nothing at {src}; check the path")
    for name, layout in LAYOUTS.items():
        if layout.fits(src):
            return name
    looked = "; ".join(f"{name}: {layout.looks_like}" for name, layout in LAYOUTS.items())
    there = sorted(p.name for p in src.iterdir())[:5] if src.is_dir() else [src.name]
    raise UsageError(
        f"expected one of the layouts ({looked}), found none of them in {src} "
        f"(there is {', '.join(there) or 'nothing'}); name it with --layout or write a list"
    )


def find_cases(
    src: Path,
    layout: str = "auto",
    labels: Labels | None = None,
    *,
    root: Path | None = None,
    with_unlabelled: bool = False,
) -> list[FoundCase]:
    """The cases of a data set, by id.

    `labels` names the numbers of label maps where the data set does not, or otherwise than it does. `root` is where a
    list's paths start (its own folder by default). `with_unlabelled`: also the images that a Decathlon or nnU-Net data
    set keeps without labels. A case that cannot be imported, such as the second of one id, says so in `problem`.
    Raises UsageError when the layout does not fit, DataError when a table of the data set does not read.
    """
    name = detect(src) if layout == "auto" else layout
    if name not in LAYOUTS:
        raise UsageError(f"expected a layout of auto, {', '.join(LAYOUTS)}; got {layout!r}")
    if not LAYOUTS[name].fits(src):
        raise UsageError(f"expected the layout {name} ({LAYOUTS[name].looks_like}) in {src}, found another")
    found = LAYOUTS[name].find(src, _Wish(labels, root, with_unlabelled))
    return _without_doubles(sorted(found, key=lambda case: case.id))


def single(image: Path, label_map: Path | None, labels: Labels | None, case_id: str | None = None) -> FoundCase:
    """One CT, with its label map where there is one. Raises UsageError when nothing names the map's numbers."""
    name = case_id or case_id_of(image.name)
    if label_map is None:
        return FoundCase(name, image, image.parent.name)
    return FoundCase(name, image, image.parent.name, **_mapped(label_map, labels, None))


def case_id_of(text: str) -> str:
    """A case id from a file's or folder's name: without its suffix, other characters become underscores.

    >>> case_id_of("liver 7 (b).nii.gz")
    'liver_7_b'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", _IMAGE.sub("", text)).strip("_.-")
    return plain[:128] or "case"


@dataclass(frozen=True)
class _Wish:
    """What the caller of ``find_cases`` asks for."""

    labels: Labels | None
    root: Path | None
    with_unlabelled: bool


@dataclass(frozen=True)
class _Layout:
    looks_like: str
    fits: Callable[[Path], bool]
    find: Callable[[Path, _Wish], Iterable[FoundCase]]


def _mapped(label_map: Path, wished: Labels | None, own: Labels | None) -> dict[str, Any]:
    """The fields of a FoundCase that say what a label map's numbers are."""
    if wished is None and own is None:
        raise UsageError(
            f"expected names for the numbers in {label_map}, got none; give --labels, such as 1=spleen,63=postcava"
        )
    table = dict(own if wished is None else wished)
    ignored = table.pop(IGNORE, (UNLABELLED,))
    # Whoever names some numbers wants just those; a data set's own table is held to be whole.
    complete = wished is None or wished is TOTALSEGMENTATOR
    return {"label_map": label_map, "labels": table, "complete": complete, "ignore": ignored[0]}


def _without_doubles(found: list[FoundCase]) -> list[FoundCase]:
    first: dict[str, FoundCase] = {}
    out = []
    for case in found:
        same = first.setdefault(case.id.lower(), case)
        if same is not case:
            problem = f"expected every case id once, got {case.id} for {case.image} and for {same.image}; rename one"
            case = replace(case, problem=problem)
        out.append(case)
    return out


# Medical Segmentation Decathlon and nnU-Net ---------------------------------------------------------------------


def _document(src: Path) -> dict[str, Any]:
    path = src / "dataset.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"expected a JSON document in {path}, got {error}; repair it") from None
    if not isinstance(document, dict):
        raise DataError(f"expected a JSON object in {path}, got {type(document).__name__}; repair it")
    return document


def _is_nnunet(src: Path) -> bool:
    if not (src / "dataset.json").is_file():
        return False
    return "channel_names" in _document(src) or any((src / "imagesTr").glob("*_0000.nii*"))


def _is_msd(src: Path) -> bool:
    return (src / "dataset.json").is_file() and not _is_nnunet(src)


def _find_msd(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    document = _document(src)
    own, name = label_table(document.get("labels"), src / "dataset.json"), str(document.get("name") or src.name)
    for entry in _entries(document, "training", src):
        image, label = (src / str(entry[key]) for key in ("image", "label"))
        yield FoundCase(case_id_of(image.name), image, name, **_mapped(label, wish.labels, own))
    if wish.with_unlabelled:
        for entry in document.get("test", []):
            image = src / str(entry["image"] if isinstance(entry, dict) else entry)
            yield FoundCase(case_id_of(image.name), image, name)


def _entries(document: dict[str, Any], key: str, src: Path) -> list[dict[str, Any]]:
    entries = document.get(key)
    whole = isinstance(entries, list) and all(isinstance(e, dict) and {"image", "label"} <= set(e) for e in entries)
    if not whole:
        raise DataError(
            f'expected "{key}": [{{"image": ..., "label": ...}}] in {src / "dataset.json"}, got {str(entries)[:80]}'
        )
    assert isinstance(entries, list)
    return entries


def _find_nnunet(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    document = _document(src)
    own, name = label_table(document.get("labels"), src / "dataset.json"), str(document.get("name") or src.name)
    for folder, labels in (("imagesTr", "labelsTr"), *([("imagesTs", "labelsTs")] if wish.with_unlabelled else [])):
        images = [p for p in sorted((src / folder).glob("[!.]*")) if _IMAGE.search(p.name)]
        channels: dict[str, list[Path]] = {}
        for image in images:
            channels.setdefault(_CHANNEL.sub("", _IMAGE.sub("", image.name)), []).append(image)
        for case, files in channels.items():
            suffix = files[0].name[len(_IMAGE.sub("", files[0].name)) :]
            label = src / labels / f"{case}{suffix}"
            found = FoundCase(case_id_of(case), files[0], name)
            if folder == "imagesTr" or label.exists():
                found = replace(found, **_mapped(label, wish.labels, own))
            if len(files) > 1:
                problem = f"expected one image a case, got {len(files)} channels ({', '.join(f.name for f in files)})"
                found = replace(found, problem=f"{problem}; keep one of them")
            yield found


# One folder a case: TotalSegmentator, AbdomenAtlas ------------------------------------------------------------------


def _case_folders(src: Path) -> list[Path]:
    """Folders with a CT or with a folder of masks: `src` itself or those in it."""
    if not src.is_dir():
        return []
    if _is_case(src):
        return [src]
    return [folder for folder in sorted(src.iterdir()) if not folder.name.startswith(".") and _is_case(folder)]


def _is_case(folder: Path) -> bool:
    return folder.is_dir() and (
        any((folder / name).is_file() for name in _CASE_IMAGES)
        or any(any((folder / name).glob("*.nii*")) for name in _MASK_FOLDERS)
    )


def _is_atlas(src: Path) -> bool:
    return any(folder.name.upper().startswith("BDMAP") for folder in _case_folders(src))


def _find_folders(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    for folder in _case_folders(src):
        image = next((folder / name for name in _CASE_IMAGES if (folder / name).is_file()), None)
        data_set = src.name if folder != src else folder.parent.name
        found = FoundCase(case_id_of(folder.resolve().name), image, data_set)
        place = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
        if place is not None:
            masks = {_IMAGE.sub("", p.name): p for p in sorted(place.glob("[!.]*")) if _IMAGE.search(p.name)}
            source = Source.PREDICTED if place.name == "predictions" else Source.ORIGINAL
            found = replace(found, masks=masks, source=source)
        elif (folder / "segmentations.nii.gz").is_file():
            found = replace(found, **_mapped(folder / "segmentations.nii.gz", wish.labels, TOTALSEGMENTATOR))
        yield found


# The paper's lists: image and label map, one case a line --------------------------------------------------------


def _is_list(src: Path) -> bool:
    return src.is_file() and src.suffix.lower() in _LISTS


def _find_list(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    root = wish.root or src.parent
    for number, line in enumerate(src.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        # Names with blanks need a tab or a comma between the columns.
        columns = [c.strip() for c in re.split(r"\t|,", line)] if re.search(r"\t|,", line) else line.split()
        if len(columns) > 2 or not columns[0]:
            raise DataError(f"expected an image and a label map in line {number} of {src}, got {line.strip()!r}")
        image = root / columns[0]
        found = FoundCase(_list_id(columns[0]), image, src.stem)
        if len(columns) == 2 and columns[1]:
            found = replace(found, **_mapped(root / columns[1], wish.labels, None))
        yield found


def _list_id(image: str) -> str:
    """An id that is the same in every list of the same data: all of a relative path that tells cases apart."""
    path = Path(image)
    folders = () if path.is_absolute() else path.parts[:-1]
    parts = [p for p in folders if p not in (".", "..", "img", "image", "images", "imagesTr", "imagesTs")]
    stem = _CHANNEL.sub("", _IMAGE.sub("", path.name))
    if stem in ("ct", "mri"):
        return case_id_of("_".join(parts or [path.parent.name]))
    return case_id_of("_".join([*parts, stem]))


LAYOUTS: Mapping[str, _Layout] = {
    "nnunet": _Layout("dataset.json beside imagesTr/CASE_0000.nii.gz", _is_nnunet, _find_nnunet),
    "msd": _Layout('dataset.json with a list "training" of images and labels', _is_msd, _find_msd),
    "abdomenatlas": _Layout("folders BDMAP_*/ with ct.nii.gz and segmentations/CLASS.nii.gz", _is_atlas, _find_folders),
    "totalsegmentator": _Layout(
        "folders CASE/ with ct.nii.gz and segmentations/CLASS.nii.gz", lambda src: bool(_case_folders(src)), _find_folders
    ),
    "list": _Layout("a text file with an image and a label map on each line", _is_list, _find_list),
}
"""By name, the more particular first."""
