"""Who may do what: a token for each expert, of which only the sha256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from ctune.data.files import read_json, write_atomically
from ctune.errors import ConfigError

ROLES = ("view", "revise", "tune")
"""Each may do what those before it may."""


@dataclass(frozen=True)
class Expert:
    name: str
    role: str

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def hashed(token: str) -> str:
    """Tokens have 256 random bits: a plain hash of one cannot be turned round."""
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(path: Path, name: str, role: str) -> str:
    """Give an expert a new token (an older one ends) and return it: nobody can read it again.

    Raises ConfigError for an unknown role or an unfit name.
    """
    if role not in ROLES:
        raise ConfigError(f"expected a role of {', '.join(ROLES)}; got {role!r}")
    if not name.strip() or len(name) > 80 or not name.isprintable():
        raise ConfigError(f"expected an expert's name of 1 to 80 printable letters, got {name!r}")
    token = secrets.token_urlsafe(32)
    known = [row for row in _rows(path) if row["expert"] != name]
    _write(path, [*known, {"expert": name, "role": role, "sha256": hashed(token)}])
    return token


def check_token(path: Path, token: str) -> Expert | None:
    """Whose token it is; every known hash is compared, in constant time."""
    wanted, found = hashed(token), None
    for row in _rows(path):
        if hmac.compare_digest(row["sha256"], wanted):
            found = Expert(row["expert"], row["role"])
    return found


def experts(path: Path) -> list[Expert]:
    """Who has a token, by name."""
    return sorted((Expert(row["expert"], row["role"]) for row in _rows(path)), key=lambda one: one.name)


def holder(path: Path, sha256: str) -> Expert | None:
    """Whose token has this hash now; None when it has ended."""
    return next((Expert(row["expert"], row["role"]) for row in _rows(path) if row["sha256"] == sha256), None)


def remove_token(path: Path, name: str) -> None:
    """End an expert's token, and with it every session that it began. Raises ConfigError for a name that has none."""
    known = _rows(path)
    left = [row for row in known if row["expert"] != name]
    if len(left) == len(known):
        names = ", ".join(one.name for one in experts(path)) or "nobody"
        raise ConfigError(f"expected an expert with a token, got {name!r}; those are: {names}")
    _write(path, left)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        rows = [{k: str(row[k]) for k in ("expert", "role", "sha256")} for row in read_json(path)]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"expected a list of expert, role and sha256 in {path}, got something else; make it with `ctune review --add-expert`"
        ) from None
    if any(row["role"] not in ROLES for row in rows):
        raise ConfigError(f"expected roles of {', '.join(ROLES)} in {path}, got another; correct it")
    return rows


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    import json

    with write_atomically(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
