"""Every error of the registry; ``exit_code`` is what a command line ends with.

RegistryError          1
├── NotFoundError      1  no such name, version, alias or digest
├── ExistsError        1  an immutable thing is there already and differs
│   └── OvertakenError 1  another version of the name came first
├── MismatchError      1  a head on a base that it was not tuned on
├── NewerCatalogError  1  the catalog was written by a newer ctune
├── ArchiveError       1  a file to import that is no archive of a registry, or a hostile one
├── InvalidNameError   2  a name, version or reference that cannot be one
├── GateError          3  a promotion that would make a class worse
└── IntegrityError     4  stored bytes are not what their digest says
    └── WeightsError   4  bytes that should be weights and are not safetensors
"""

from __future__ import annotations


class RegistryError(Exception):
    """Root of the registry's errors."""

    exit_code: int = 1


class NotFoundError(RegistryError):
    """No such name, version, alias or digest."""


class ExistsError(RegistryError):
    """An immutable thing is there already and differs."""


class OvertakenError(ExistsError):
    """Another version of the name came between the look at the newest and the next one."""


class MismatchError(RegistryError):
    """A head was put together with a base that it was not tuned on."""


class NewerCatalogError(RegistryError):
    """The catalog was written by a newer version of the program."""


class ArchiveError(RegistryError):
    """A file to import is no archive of a registry, or holds what no archive may."""


class InvalidNameError(RegistryError):
    """A name or reference that cannot be one."""

    exit_code = 2


class GateError(RegistryError):
    """A promotion would make a class worse than the margin allows, or cannot be judged."""

    exit_code = 3


class IntegrityError(RegistryError):
    """Stored bytes are not what their digest says, or are gone."""

    exit_code = 4


class WeightsError(IntegrityError):
    """Bytes that should be weights are not safetensors."""


class NetworkFileSystemWarning(UserWarning):
    """An SQLite catalog lies on a file system whose locks cannot be relied on."""
