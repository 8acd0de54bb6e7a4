"""A project: a folder with ``ctune.toml``, a pool, rounds, a registry and a cache that may be deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctune.classes import canonical
from ctune.config import CONFIG_NAME, Config, HeadConfig, dump, from_mapping, load
from ctune.data.files import write_atomically
from ctune.errors import PoolError, UsageError

if TYPE_CHECKING:
    from ctune.data.pool import Pool
    from ctune.types import AnnotationRecord
    from registry import Registry


@dataclass(frozen=True, eq=False)
class Project:
    """root: the folder. config: what ``ctune.toml`` says."""

    root: Path
    config: Config

    @cached_property
    def pool(self) -> Pool:
        # Reading images is imported by those who read them: commands about models alone answer sooner.
        from ctune.data.pool import Pool
        from ctune.data.shared_pool import SharedPool, is_url

        if is_url(self.config.pool):
            return SharedPool(self.config.pool, self.cache / "pool", self.config.pool_cache_gb)
        return Pool.open(self.root / self.config.pool)

    @property
    def cache(self) -> Path:
        """What can be made again: prepared cases, features, checkpoints."""
        return self.root / "cache"

    @property
    def heads(self) -> HeadConfig:
        """The settings of heads, with the encoder's folder found: a relative one is in the project's."""
        heads = self.config.heads
        if not heads.text_encoder:
            return heads
        return heads.model_copy(update={"text_encoder": str(self.root / heads.text_encoder)})

    def class_of(self, record: AnnotationRecord) -> str:
        """The class that an annotation of the pool counts for: its own, or what the project's aliases make of it.

        So annotations of a class that was renamed go on counting, under the name that they have.
        """
        return canonical(record.class_name, self.config.aliases)

    def open_registry(self) -> Registry:
        """The project's registry; made on first use."""
        from registry import Registry

        return Registry.open(self.root / self.config.registry)


def adjusted(project: Project, section: str, changes: Mapping[str, Any]) -> Project:
    """The same project with other settings in one section of ``ctune.toml``, for one command; the file stays.

    Raises ConfigError for settings that cannot be.
    """
    plain = project.config.model_dump(mode="json")
    plain[section] |= changes
    return Project(project.root, from_mapping(plain, where="command line"))


def create_project(root: Path, config: Config) -> Project:
    """Make a project in `root`. Raises PoolError when one is there already."""
    from ctune.data.pool import Pool
    from ctune.data.shared_pool import is_url

    if (root / CONFIG_NAME).exists():
        raise PoolError(
            f"expected a folder without a project, found {root / CONFIG_NAME}; choose another folder"
        )
    if not is_url(config.pool):
        Pool.create(root / config.pool)
    with write_atomically(root / CONFIG_NAME) as temporary:
        temporary.write_text(dump(config), encoding="utf-8")
    return Project(root.resolve(), config)


def find_project(start: Path | None = None) -> Project:
    """The project in `start`, or the one around the working directory, looking upwards as git does.

    Raises UsageError when there is none, ConfigError for bad settings.
    """
    if start is not None:
        return open_project(start)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIG_NAME).exists():
            return open_project(folder)
    raise UsageError(
        f"expected {CONFIG_NAME} in {here} or a folder above it, found none; run `ctune init DIR` or give "
        "--project DIR"
    )


def open_project(root: Path) -> Project:
    """The project in `root`. Raises UsageError when there is none, ConfigError for bad settings."""
    if not (root / CONFIG_NAME).exists():
        raise UsageError(f"expected {CONFIG_NAME} in {root}, found none; run `ctune init {root}` first")
    return Project(root.resolve(), load(root / CONFIG_NAME))
