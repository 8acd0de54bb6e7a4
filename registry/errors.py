"""Every error of the registry; ``exit_code`` is what a command line ends with.

RegistryError          1
├── NotFoundError      1  no such name, version, alias or digest
├── ExistsError        1  an immutable thing is there already and differs
├── NewerCatalogError  1  the catalog was written by a newer ctune
├── InvalidNameError   2  a name, version or reference that cannot be one
└── IntegrityError     4  stored bytes are not what their digest says
"""

from __future__ import annotations


class RegistryError(Exception):
    """Root of the registry's errors."""

    exit_code: int = 1


class NotFoundError(RegistryError):
    """No such name, version, alias or digest."""


class ExistsError(RegistryError):
    """An immutable thing is there already and differs."""


class NewerCatalogError(RegistryError):
    """The catalog was written by a newer version of the program."""


class InvalidNameError(RegistryError):
    """A name or reference that cannot be one."""

    exit_code = 2


class IntegrityError(RegistryError):
    """Stored bytes are not what their digest says, or are gone."""

    exit_code = 4
