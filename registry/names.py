"""What may be a name or a class, and what a reference means: ``NAME``, ``NAME:VERSION``, ``NAME@ALIAS``, ``sha256:...``."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from registry.errors import InvalidNameError

LONGEST = 128
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_CLASS = re.compile(r"[a-z0-9](?:[a-z0-9_]{0,62}[a-z0-9])?")
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
            f"expected {'an' if what[0] in 'aeiou' else 'a'} {what} of 1 to {LONGEST} of a-z, 0-9, '.', '_' and '-' that starts with a letter or digit, "
            f"got {name[:40]!a}: {_why_not(name)}; choose another"
        )
    return name


def _why_not(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters"
    for character in name:
        if character in "/\\":
            return "'/' and '\\' would make it a path"
        if unicodedata.category(character).startswith("C"):
            return f"it holds the invisible character U+{ord(character):04X}"
        if not character.isascii():
            return f"U+{ord(character):04X} ({unicodedata.name(character, 'unnamed')}) looks like another character"
    if ".." in name:
        return "'..' would make it a path"
    if name != name.lower():
        return "capitals are not told apart everywhere"
    return f"{next((c for c in name if not _NAME.fullmatch('a' + c)), name[0])!r} may not stand there"


def check_class(name: str, where: str) -> str:
    """The name of a class itself. Raises InvalidNameError; `where` says whose class it is.

    As ctune writes classes: they become the names of files wherever a model predicts.
    """
    if not _CLASS.fullmatch(name):
        raise InvalidNameError(
            f"expected a class of 1 to 64 of a-z, 0-9 and '_' that starts and ends with a letter or digit in {where}, got "
            f"{name[:40]!a}; rename the class where the model was made, and do not trust a model from elsewhere that has it"
        )
    return name


def check_text(text: str, what: str = "note") -> str:
    """Free text as it is stored. Raises InvalidNameError for control characters, or more than 10,000 characters."""
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    if bad is not None or len(text) > 10_000:
        got = f"the character U+{ord(bad):04X}" if bad is not None else f"{len(text)} characters"
        raise InvalidNameError(
            f"expected a {what} of at most 10000 printable characters, got {got}; shorten or clean it"
        )
    return text


def parse(reference: str) -> Reference:
    """Take a reference apart. Raises InvalidNameError.

    >>> parse("abdomen:3").version, parse("abdomen@production").alias
    (3, 'production')
    """
    if reference.startswith("sha256:"):
        found = _DIGEST.fullmatch(reference)
        if not found:
            raise InvalidNameError(
                f"expected sha256: and 8 to 64 hexadecimal digits in lower case, got {reference[:80]!a}; "
                "`ctune registry list` shows digests"
            )
        return Reference(digest=found[1])
    if "@" in reference:
        name, _, alias = reference.partition("@")
        return Reference(name=check_name(name), alias=check_name(alias, "alias"))
    name, colon, version = reference.partition(":")
    if not colon:
        return Reference(name=check_name(name))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise InvalidNameError(
            f"expected a version number after {name[:40]}:, got {version[:40]!a}; "
            f"`ctune registry list NAME` shows the versions of a name"
        )
    return Reference(name=check_name(name), version=int(version))
