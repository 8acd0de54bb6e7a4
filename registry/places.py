"""Where a registry keeps its parts, when that is not its own folder: ``registry.toml``.

catalog = "postgresql://host/models"     an SQLAlchemy URL; passwords belong into ~/.pgpass
blobs = "s3://bucket/models"             a folder or any fsspec URL
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.errors import RegistryError

FILE = "registry.toml"


class Places(BaseModel):
    """None: in the registry's own folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    catalog: str | None = None
    blobs: str | None = None


def read_places(root: Path) -> Places:
    """What ``registry.toml`` in `root` says. Raises RegistryError for anything but the two lines above."""
    file = root / FILE
    if not file.exists():
        return Places()
    try:
        return Places.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RegistryError(
            f"expected `catalog` and `blobs` as text in {file}, got: {' '.join(str(error).split())[:200]}; correct the file"
        ) from None
