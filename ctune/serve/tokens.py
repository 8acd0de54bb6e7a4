"""Who may ask: a file of names and the sha256 of each one's token."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from ctune.data.files import read_json, write_json
from ctune.errors import ConfigError

_HEX = re.compile(r"[0-9a-f]{64}")


class Tokens:
    """{name: sha256 of the token in hexadecimal}; none at all lets everybody in."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    def __bool__(self) -> bool:
        return bool(self._known)

    def who(self, authorization: str) -> str | None:
        """Whose token an Authorization header holds, or None; every known hash is compared, in constant time.

        >>> Tokens({}).who("")
        'anyone'
        """
        if not self._known:
            return "anyone"
        scheme, _, token = authorization.partition(" ")
        came, found = hashed(token), None
        for name, known in self._known.items():
            if hmac.compare_digest(known, came) and scheme.lower() == "bearer":
                found = name
        return found


def hashed(token: str) -> str:
    """Tokens have 256 random bits: a plain hash of one cannot be turned round."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file. Raises ConfigError when it is not there or holds something else."""
    try:
        known = read_json(path)
    except FileNotFoundError:
        raise ConfigError(
            f"expected a file of tokens at {path}, found none; make one with `ctune serve --add-token NAME --tokens {path}`"
        ) from None
    except ValueError:
        known = None
    if not isinstance(known, dict) or not known or not all(_HEX.fullmatch(str(v)) for v in known.values()):
        raise ConfigError(
            f"expected {{name: sha256}} in {path}, got something else; make it with `ctune serve --add-token NAME`"
        )
    return Tokens({str(name): str(value) for name, value in known.items()})


def add_token(path: Path, name: str) -> str:
    """Give `name` a new token (an older one ends) and return it: nobody can read it again. Raises ConfigError."""
    if not name.strip() or len(name) > 80 or not name.isprintable():
        raise ConfigError(f"expected a name of 1 to 80 printable letters, got {name!r}")
    known = read_json(path) if path.exists() else {}
    if known:
        read_tokens(path)
    token = secrets.token_urlsafe(32)
    write_json(path, {**known, name: hashed(token)})
    path.chmod(0o600)
    return token
