"""Where a registry keeps its parts, when that is not its own folder: ``registry.toml``.

catalog = "postgresql://host/models"     an SQLAlchemy URL; passwords belong into ~/.pgpass
blobs = "s3://bucket/models"             a folder or any fsspec URL
cache = "/scratch/ctune"                 where each machine keeps blobs of a URL; "" keeps none
cache_gb = 10

``blobs`` and an SQLite ``catalog`` that are no whole paths begin in the registry's folder, wherever it is opened from; ``~`` is
the user's own.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import RegistryError
from registry.node_cache import LIMIT_GB, NodeCache, default_folder

FILE = "registry.toml"
_SQLITE = "sqlite:///"


class Places(BaseModel):
    """None: in the registry's own folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    catalog: str | None = None
    blobs: str | None = None
    cache: str | None = None
    cache_gb: float = Field(LIMIT_GB, gt=0)

    def node_cache(self) -> NodeCache | None:
        """Where this machine keeps what it read of a remote store."""
        if self.cache == "":
            return None
        folder = default_folder() if self.cache is None else Path(self.cache).expanduser()
        return NodeCache(folder, self.cache_gb)


def read_places(root: Path) -> Places:
    """What ``registry.toml`` in `root` says, with whole paths. Raises RegistryError for anything but the lines above."""
    file = root / FILE
    if not file.exists():
        return Places()
    try:
        said = Places.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RegistryError(
            f"expected `catalog`, `blobs` and `cache` as text, `cache_gb` as a number in {file}, got: {' '.join(str(error).split())[:200]}; correct the file"
        ) from None
    return said.model_copy(
        update={"blobs": _folder(root, said.blobs), "catalog": _catalog(root, said.catalog)}
    )


def _folder(root: Path, text: str | None) -> str | None:
    """A folder as a whole path; a URL as it is."""
    if not text or "://" in text or "::" in text:
        return text
    return str(root.absolute() / Path(text).expanduser())


def sqlite_url(file: Path) -> str:
    """The URL of a catalog in a file: ``?``, ``#`` and ``%`` in the name of a folder are no part of a URL.

    >>> sqlite_url(Path("/models?/catalog.sqlite"))
    'sqlite:////models%3F/catalog.sqlite'
    """
    return f"{_SQLITE}{quote(str(file))}"


def _catalog(root: Path, text: str | None) -> str | None:
    """The URL of an SQLite file with its whole path; any other as it is."""
    file = (text or "").removeprefix(_SQLITE)
    if not text or file in ("", text) or file.startswith((":memory:", "file:")):
        return text
    path, mark, options = file.partition("?")
    return f"{sqlite_url(root.absolute() / Path(unquote(path)).expanduser())}{mark}{options}"
