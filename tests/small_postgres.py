"""A real PostgreSQL server for tests, from Debian's package, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


class Server:
    """Listens on a socket in its folder, or at `host`, port 5432. inside: words that go before each command."""

    def __init__(
        self, folder: str, owner: dict[str, int], host: str = "", inside: Sequence[str] = ()
    ) -> None:
        self._folder, self._owner, self._host, self.inside = folder, owner, host, inside
        self._programs = programs()
        self._data = f"{folder}/data"
        self._do("initdb", "-U", "ctune", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8")
        with Path(self._data, "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all samenet trust\n")

    @property
    def url(self) -> str:
        where = f"{self._host}:5432/postgres?" if self._host else f"/postgres?host={self._folder}"
        return f"postgresql://ctune@{where}".removesuffix("?")

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses={self._host} -c fsync=off"
        self._do("pg_ctl", "-w", "-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self._do("pg_ctl", "-m", "immediate", "stop")

    def _do(self, program: str, *words: str) -> None:
        command = [*self.inside, f"{self._programs}/{program}", "-D", self._data, *words]
        if self.inside and self._owner:  # only root enters a namespace, and the server refuses to run as root
            at = len(self.inside)
            as_owner = [
                "setpriv",
                f"--reuid={self._owner['user']}",
                f"--regid={self._owner['group']}",
                "--clear-groups",
            ]
            command, owner = [*command[:at], *as_owner, *command[at:]], {}
        else:
            owner = self._owner
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self._folder, **owner  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def running(host: str = "", inside: Sequence[str] = ()) -> Iterator[Server]:
    """A server that has started; skips the test where there can be none."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (on Debian: apt-get install postgresql)")
    owner = {}
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            owner = {"user": pwd.getpwnam("postgres").pw_uid, "group": pwd.getpwnam("postgres").pw_gid}
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    # Paths of sockets are short; pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        server = Server(folder, owner, host, inside)
        server.start()
        try:
            yield server
        finally:
            server.stop()
