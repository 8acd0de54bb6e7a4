"""Find cases in data sets as they are published: which CT, which masks, what their numbers mean.

Nothing is read here but folders and tables; whether an image is one is found out when it is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctune.data.foreign import NAMELESS, holds_series, is_foreign_ct, labels_in
from ctune.data.found import IMAGE_SUFFIX, FoundCase, case_id_of
from ctune.data.kinds import stem_of
from ctune.data.labels import TOTALSEGMENTATOR, Labels, label_table
from ctune.data.segmentations import whole_file
from ctune.errors import DataError, UsageError
from ctune.types import Source

_CHANNEL = re.compile(r"_(\d{4})$")
_CASE_IMAGES = ("ct.nii.gz", "ct.nii", "mri.nii.gz", "mri.nii", "ct.nrrd")
_MASK_FOLDERS = ("segmentations", "annotations", "predictions")
_LISTS = (".txt", ".tsv", ".csv", ".lst")


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
    label_map: Path | None = None,
    case_id: str | None = None,
) -> list[FoundCase]:
    """The cases of a data set, by id.

    `labels` names the numbers of label maps where the data set does not, or otherwise than it does. `root` is
    where a list's paths start (its own folder by default). `with_unlabelled`: also the images that a
    Decathlon or nnU-Net data set keeps without labels. `label_map` and `case_id` belong to a single image. A
    case that cannot be imported, such as the second of one id or one whose labels do not read, says so in
    `problem`. Raises UsageError when the layout does not fit or nothing names the numbers of any label map,
    DataError when a table of the data set does not read.
    """
    name = detect(src) if layout == "auto" else layout
    if name not in LAYOUTS:
        raise UsageError(f"expected a layout of auto, {', '.join(LAYOUTS)}; got {layout!r}")
    if not LAYOUTS[name].fits(src):
        raise UsageError(f"expected the layout {name} ({LAYOUTS[name].looks_like}) in {src}, found another")
    if name != "image" and (label_map or case_id):
        raise UsageError(
            f"expected a label map and an id for a single image only, got {src} of the layout {name}"
        )
    found = LAYOUTS[name].find(src, _Wish(labels, root, with_unlabelled, label_map, case_id))
    return _without_doubles(_with_names(sorted(found, key=lambda case: case.id)))


@dataclass(frozen=True)
class _Wish:
    """What the caller of ``find_cases`` asks for."""

    labels: Labels | None
    root: Path | None
    with_unlabelled: bool
    label_map: Path | None
    case_id: str | None


@dataclass(frozen=True)
class _Layout:
    looks_like: str
    fits: Callable[[Path], bool]
    find: Callable[[Path, _Wish], Iterable[FoundCase]]


def _with(found: FoundCase, look: Callable[..., Mapping[str, Any]], *at: Any) -> FoundCase:
    """The case with the fields that `look(*at)` finds; a fault of its files becomes its problem, the others go on."""
    try:
        return replace(found, **look(*at))
    except (DataError, OSError) as error:
        return replace(found, problem=" ".join(str(error).split()).removeprefix(f"{_what(found)}: "))


def _labelled(found: FoundCase, path: Path, wish: _Wish, own: Labels | None = None) -> FoundCase:
    """The case with what is in a file of labels, whose numbers the data set names as in `own`."""
    return _with(found, labels_in, path, wish.labels, own, _what(found))


def _what(found: FoundCase) -> str:
    return f"case {found.id}"


def _with_names(found: list[FoundCase]) -> list[FoundCase]:
    """The same cases. Raises UsageError where no label map has names: then it is the table that is missing, not a case bad."""
    labelled = [case for case in found if case.names or case.problem]
    if labelled and all(case.problem.startswith(NAMELESS) for case in labelled):
        raise UsageError(labelled[0].problem)
    return found


def _without_doubles(found: list[FoundCase]) -> list[FoundCase]:
    first: dict[str, FoundCase] = {}
    out = []
    for case in found:
        same = first.setdefault(case.id.lower(), case)
        twice = f"expected every id once, got {case.id} for {case.image} and for {same.image}; rename one"
        out.append(case if same is case else replace(case, problem=twice))
    return out


# Medical Segmentation Decathlon and nnU-Net


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
    own, data_set = label_table(document.get("labels"), src / "dataset.json"), _name(document, src)
    for entry in _entries(document, src):
        image, label = (src / str(entry[key]) for key in ("image", "label"))
        yield _labelled(FoundCase(case_id_of(image.name), image, data_set), label, wish, own)
    if wish.with_unlabelled:
        for entry in document.get("test", []):
            image = src / str(entry.get("image") if isinstance(entry, dict) else entry)
            yield FoundCase(case_id_of(image.name), image, data_set)


def _name(document: dict[str, Any], src: Path) -> str:
    return str(document.get("name") or src.resolve().name)


def _entries(document: dict[str, Any], src: Path) -> list[dict[str, Any]]:
    entries = document.get("training")
    if isinstance(entries, list) and all(
        isinstance(e, dict) and {"image", "label"} <= set(e) for e in entries
    ):
        return entries
    raise DataError(
        f'expected "training": [{{"image": ..., "label": ...}}] in {src / "dataset.json"}, '
        f"got {str(entries)[:80]}; repair it"
    )


def _find_nnunet(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    document = _document(src)
    own, data_set = label_table(document.get("labels"), src / "dataset.json"), _name(document, src)
    for part in ("Tr", "Ts") if wish.with_unlabelled else ("Tr",):
        for name, channels in _channels(src / f"images{part}").items():
            image = channels[0]
            suffix = image.name[len(IMAGE_SUFFIX.sub("", image.name)) :]
            label = src / f"labels{part}" / f"{name}{suffix}"
            found = FoundCase(case_id_of(name), image, data_set)
            if part == "Tr" or label.exists():
                found = _labelled(found, label, wish, own)
            if len(channels) > 1:
                many = (
                    f"expected one image a case, got {len(channels)}: {', '.join(c.name for c in channels)}"
                )
                found = replace(found, problem=f"{many}; keep one of them")
            yield found


def _channels(folder: Path) -> dict[str, list[Path]]:
    """{case: its images, one a channel}."""
    out: dict[str, list[Path]] = {}
    for image in sorted(folder.glob("[!.]*")):
        if IMAGE_SUFFIX.search(image.name):
            out.setdefault(_CHANNEL.sub("", IMAGE_SUFFIX.sub("", image.name)), []).append(image)
    return out


# One folder a case: TotalSegmentator, AbdomenAtlas


def _case_folders(src: Path) -> list[Path]:
    """Folders with a CT or with a folder of masks: `src` itself or those in it."""
    # One folder of DICOM slices is one image, to which a label map may be named.
    if not src.is_dir() or holds_series(src):
        return []
    if _is_case(src):
        return [src]
    return [
        folder for folder in sorted(src.iterdir()) if not folder.name.startswith(".") and _is_case(folder)
    ]


def _is_case(folder: Path) -> bool:
    return folder.is_dir() and (
        holds_series(folder)
        or any((folder / name).is_file() for name in _CASE_IMAGES)
        or any(any((folder / name).glob("*.nii*")) for name in _MASK_FOLDERS)
    )


def _is_atlas(src: Path) -> bool:
    return any(folder.name.upper().startswith("BDMAP") for folder in _case_folders(src))


def _find_folders(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    for folder in _case_folders(src):
        image = next((folder / name for name in _CASE_IMAGES if (folder / name).is_file()), None)
        image = folder if image is None and holds_series(folder) else image
        here = folder.resolve()
        found = FoundCase(case_id_of(here.name), image, here.parent.name)
        yield _with(found, _masks_in, folder, wish, _what(found))


def _masks_in(folder: Path, wish: _Wish, what: str) -> dict[str, Any]:
    """The fields of a FoundCase that say what masks are in its folder. Raises as ``labels_in``, LabelError for two files."""
    place = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    if place is not None:
        images = [p for p in sorted(place.glob("[!.]*")) if IMAGE_SUFFIX.search(p.name)]
        source = Source.PREDICTED if place.name == "predictions" else Source.ORIGINAL
        return {"masks": {IMAGE_SUFFIX.sub("", p.name): p for p in images}, "source": source}
    if (numbers := folder / "segmentations.nii.gz").is_file():
        return labels_in(numbers, wish.labels, TOTALSEGMENTATOR, what)
    whole = whole_file(folder, what)
    return {} if whole is None else labels_in(whole, wish.labels, None, what)


# The paper's lists: image and label map, one case a line


def _is_list(src: Path) -> bool:
    return src.is_file() and src.suffix.lower() in _LISTS


def _find_list(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    root = wish.root or src.parent
    for number, line in enumerate(_lines(src), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        # Names with blanks need a tab or a comma between the columns.
        columns = [c.strip() for c in re.split(r"\t|,", line)] if re.search(r"\t|,", line) else line.split()
        if len(columns) > 2 or not columns[0]:
            raise DataError(f"expected an image and a label map, got {line.strip()!r} in {src}:{number}")
        image = root / columns[0]
        found = FoundCase(_list_id(columns[0]), image, src.stem)
        if len(columns) == 2 and columns[1]:
            found = _labelled(found, root / columns[1], wish)
        yield found


def _lines(src: Path) -> list[str]:
    try:
        return src.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"expected a list in UTF-8 in {src}, got {error}; save it as UTF-8") from None


def _list_id(image: str) -> str:
    """An id that is the same in every list of the same data, from all of a relative path but img/."""
    path = Path(image)
    folders = () if path.is_absolute() else path.parts[:-1]
    parts = [p for p in folders if p not in (".", "..", "img", "image", "images", "imagesTr", "imagesTs")]
    # Only the first channel's number is surely one: word_0004 is the fourth case of its data set.
    stem = stem_of(path).removesuffix("_0000")
    if stem in ("ct", "mri"):
        return case_id_of("_".join(parts or [path.parent.name]))
    return case_id_of("_".join([*parts, stem]))


def _is_image(src: Path) -> bool:
    return (src.is_file() and bool(IMAGE_SUFFIX.search(src.name))) or is_foreign_ct(src)


def _find_image(src: Path, wish: _Wish) -> Iterator[FoundCase]:
    found = FoundCase(wish.case_id or case_id_of(stem_of(src)), src, src.resolve().parent.name)
    yield _labelled(found, wish.label_map, wish) if wish.label_map else found


LAYOUTS: Mapping[str, _Layout] = {
    "nnunet": _Layout("dataset.json beside imagesTr/CASE_0000.nii.gz", _is_nnunet, _find_nnunet),
    "msd": _Layout('dataset.json with a list "training" of images and labels', _is_msd, _find_msd),
    "abdomenatlas": _Layout(
        "folders BDMAP_*/ with ct.nii.gz and segmentations/CLASS.nii.gz", _is_atlas, _find_folders
    ),
    "totalsegmentator": _Layout(
        "folders CASE/ with ct.nii.gz and segmentations/CLASS.nii.gz",
        lambda src: bool(_case_folders(src)),
        _find_folders,
    ),
    "list": _Layout("a text file with an image and a label map on each line", _is_list, _find_list),
    "image": _Layout(
        "one CT: .nii.gz, .nii, .nrrd, or a DICOM series as a folder or .zip", _is_image, _find_image
    ),
}
"""By name, the more particular first."""
