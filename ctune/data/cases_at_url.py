"""Results of cases below an fsspec URL (s3://, gcs://, sftp://, ...), for machines that share no disk.

    URL/<case>/<files>
    URL/<case>/prediction.json   the record, which comes last: a case without it is not finished

Work is done in a folder of this machine, as if the results lay on a disk; only what is finished is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ctune.data.shared_pool import is_url
from ctune.errors import DataError

RECORD = "prediction.json"


@dataclass(frozen=True)
class CasesAtUrl:
    """The results below one URL; a plain value, so that any worker can have it. All raise DataError when it cannot be reached."""

    url: str

    def __str__(self) -> str:
        return self.url

    def records(self) -> dict[str, bytes]:
        """{case: its record}, of every case that is finished."""
        with self._talking() as (fs, at):
            fs.invalidate_cache()
            names = [
                path.rstrip("/").rpartition("/")[2] for path in (fs.ls(at, False) if fs.exists(at) else [])
            ]
            wanted = {f"{at}/{name}/{RECORD}": name for name in names if not name.startswith(".")}
            found: dict[str, Any] = fs.cat(list(wanted), on_error="return") if wanted else {}
        cases = dict[str, bytes]()
        for path, data in found.items():
            if isinstance(data, bytes):
                cases[path.rstrip("/").split("/")[-2]] = data
            elif not isinstance(data, FileNotFoundError | NotADirectoryError):
                with self._talking():
                    raise data
        return dict(sorted(cases.items()))

    def bring_records(self, folder: Path) -> list[str]:
        """Write every record to ``folder/<case>``; gives the cases."""
        found = self.records()
        for case_id, data in found.items():
            place = folder / case_id
            place.mkdir(parents=True, exist_ok=True)
            (place / RECORD).write_bytes(data)
        return list(found)

    @contextmanager
    def updating(self, case_id: str) -> Iterator[Path]:
        """A folder of this machine with the case's record if it has one; what is put beside it replaces what the URL has.

        Nothing is sent when nothing was put there, or on an error. The earlier record goes first and the new one comes last.
        """
        with TemporaryDirectory(prefix="ctune-") as scratch:
            folder = Path(scratch) / case_id
            folder.mkdir()
            self._bring(case_id, [RECORD] if self._has(case_id, RECORD) else [], folder)
            yield folder
            made = sorted(path.name for path in folder.iterdir() if path.name != RECORD)
            if made:
                self._replace(case_id, folder, made)

    @contextmanager
    def reading(self, case_id: str, *, record_alone: bool = False) -> Iterator[Path]:
        """A folder of this machine with the files of the case, or with its record alone."""
        with TemporaryDirectory(prefix="ctune-") as scratch:
            folder = Path(scratch) / case_id
            folder.mkdir()
            self._bring(case_id, [RECORD] if record_alone else self._names(case_id), folder)
            yield folder

    def write_json(self, name: str, value: Any) -> None:
        """Write ``URL/name``."""
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
        with self._talking() as (fs, at):
            fs.makedirs(at, exist_ok=True)
            fs.pipe_file(f"{at}/{name}", text.encode())

    def _replace(self, case_id: str, folder: Path, made: Sequence[str]) -> None:
        there = self._names(case_id)
        with self._talking() as (fs, at):
            place = f"{at}/{case_id}"
            for name in sorted(there, key=lambda name: name != RECORD):
                if name == RECORD or name not in made:
                    fs.rm_file(f"{place}/{name}")
            fs.makedirs(place, exist_ok=True)
            for name in (*made, RECORD):
                fs.put_file(str(folder / name), f"{place}/{name}")

    def _has(self, case_id: str, name: str) -> bool:
        with self._talking() as (fs, at):
            fs.invalidate_cache()
            return bool(fs.exists(f"{at}/{case_id}/{name}"))

    def _names(self, case_id: str) -> list[str]:
        with self._talking() as (fs, at):
            fs.invalidate_cache()
            return sorted(path.rpartition("/")[2] for path in fs.find(f"{at}/{case_id}"))

    def _bring(self, case_id: str, names: Sequence[str], folder: Path) -> None:
        with self._talking() as (fs, at):
            for name in names:
                fs.get_file(f"{at}/{case_id}/{name}", str(folder / name))

    @contextmanager
    def _talking(self) -> Iterator[tuple[Any, str]]:
        """The file system and where in it; whatever its library raises becomes a DataError: each has errors of its own."""
        try:
            import fsspec

            fs, at = fsspec.core.url_to_fs(self.url)
            yield fs, str(at).rstrip("/")
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"expected to reach {self.url}, got: {text[:300]}; check the URL, the access and the network, and run the same "
                "again"
            ) from error


def place_of(text: str) -> Path | CasesAtUrl:
    """A folder, or what is below a URL."""
    return CasesAtUrl(text.rstrip("/")) if is_url(text) else Path(text)
