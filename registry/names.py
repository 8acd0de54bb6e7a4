"""What may be a name, and what a reference means: ``NAME``, ``NAME:VERSION``, ``NAME@ALIAS``, ``sha256:...``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import InvalidNameError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{8,64})")


@dataclass(frozen=True)
class Reference:
    """A parsed reference: either a digest (or the beginning of one), or a name with a version, an alias or neither."""

    name: str | None = None
    version: int | None = None
    alias: str | None = None
    digest: str | None = None


def check_name(name: str, what: str = "name") -> str:
    """The name itself. Raises InvalidNameError with the reason.

    Lower case ASCII alone: names become folders elsewhere, and look-alikes of other alphabets would pass for each other.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidNameError(
            f"expected a {what} of 1 to 128 of a-z, 0-9, '.', '_' and '-' that starts with a letter or digit and has no "
            f"'..', got {name[:80]!r}; choose another"
        )
    return name


def parse(reference: str) -> Reference:
    """Take a reference apart. Raises InvalidNameError.

    >>> parse("abdomen:3").version, parse("abdomen@production").alias
    (3, 'production')
    """
    if reference.startswith("sha256:"):
        found = _DIGEST.fullmatch(reference)
        if not found:
            raise InvalidNameError(f"expected sha256: and 8 to 64 hexadecimal digits, got {reference[:80]!r}")
        return Reference(digest=found[1])
    if "@" in reference:
        name, _, alias = reference.partition("@")
        return Reference(name=check_name(name), alias=check_name(alias, "alias"))
    name, colon, version = reference.partition(":")
    if not colon:
        return Reference(name=check_name(name))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise InvalidNameError(f"expected a version number after {name}:, got {version[:40]!r}")
    return Reference(name=check_name(name), version=int(version))
