"""Where a registry keeps its parts, when that is not its own folder: ``registry.toml``.

catalog = "postgresql://host/models"     an SQLAlchemy URL; passwords belong into ~/.pgpass
blobs = "s3://bucket/models"             a folder or any fsspec URL
cache = "/scratch/ctune"                 where each machine keeps blobs of a URL; "" keeps none
cache_gb = 10
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import RegistryError
from registry.node_cache import LIMIT_GB, NodeCache, default_folder

FILE = "registry.toml"


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
    """What ``registry.toml`` in `root` says. Raises RegistryError for anything but the lines above."""
    file = root / FILE
    if not file.exists():
        return Places()
    try:
        return Places.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RegistryError(
            f"expected `catalog`, `blobs` and `cache` as text, `cache_gb` as a number in {file}, got: {' '.join(str(error).split())[:200]}; correct the file"
        ) from None
