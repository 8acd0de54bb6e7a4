"""A Ray cluster of several hosts on one machine: each a network namespace with an address of its own, for ``make scale-test``.

Run as a program, it builds a head and two workers and runs a command on the head, which finds the cluster's address in
``$CTUNE_RAY_ADDRESS``: ``python tests/small_cluster.py 4 ctune bench executors --preset cpu``, with 4 cores a worker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PORT = 6399
HERE = Path(__file__).resolve().parent


class Host:
    """A namespace with one address."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.inside = ("ip", "netns", "exec", name)

    def run(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """A command on this host, waited for."""
        return subprocess.run(
            [*self.inside, *map(str, words)], capture_output=True, text=True, check=False, env=_environment(more)
        )  # fmt: skip

    def begin(self, *words: object, **more: str) -> subprocess.Popen[str]:
        """A command on this host, under way."""
        return subprocess.Popen(
            [*self.inside, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(more)
        )  # fmt: skip

    def pids(self) -> list[int]:
        """What runs on this host."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in pids.stdout.split()]

    def plug(self, state: str) -> None:
        """Its cable: "up" or "down"."""
        subprocess.run(["ip", "-n", self.name, "link", "set", "eth0", state], check=True)

    def kill(self) -> int:
        """Kill everything on this host with -9; returns how many processes that were."""
        found = self.pids()
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(found)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """`count` hosts that reach each other; skips the test where namespaces cannot be made. Nothing of them stays."""
    if os.environ.get("CTUNE_SCALE") != "1":
        pytest.skip("a cluster takes minutes: `make scale-test`")
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts are network namespaces: needs root and iproute2")
    mark, made = f"ct{os.getpid()}", []
    switch = f"{mark}-sw"
    try:
        _ip("netns", "add", switch)
        made.append(switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        found = [Host(f"{mark}-{n}", f"10.210.0.{n}") for n in range(1, count + 1)]
        for n, host in enumerate(found):
            _ip("netns", "add", host.name)
            made.append(host.name)
            _ip(
                "-n",
                switch,
                "link",
                "add",
                f"p{n}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                host.name,
            )
            _ip("-n", switch, "link", "set", f"p{n}", "master", "br0", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", link, "up")
        yield found
    finally:
        for name in made:
            Host(name, "").kill()
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def cluster(head: Host, workers: Sequence[Host], cores: int) -> Iterator[str]:
    """The address of a Ray cluster with a head that does no work and workers of `cores` each."""
    pytest.importorskip("ray", reason="needs the extra ray")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        start_ray(
            head, "--head", f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false", cores=0
        )
        address = f"{head.address}:{PORT}"
        for worker in workers:
            start_ray(worker, f"--address={address}", cores=cores)
        yield address
        for host in (head, *workers):
            host.kill()


def start_ray(host: Host, *words: str, cores: int, **more: str) -> None:
    """Ray on a host. more: its environment; a PYTHONPATH is looked at first."""
    program = Path(sys.executable).with_name("ray")
    if "PYTHONPATH" in more:
        more["PYTHONPATH"] = f"{more['PYTHONPATH']}{os.pathsep}{HERE}"
    done = host.run(
        program, "start", f"--node-ip-address={host.address}", f"--num-cpus={cores}", "--object-store-memory=100000000",
        "--disable-usage-stats", *words, **more,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")


def _environment(more: dict[str, str]) -> dict[str, str]:
    own = {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_AUTH_MODE": "disabled", "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
    }  # fmt: skip
    return {**os.environ, **own, **more}


def main(cores: int, command: Sequence[str]) -> int:
    """Run a command on the head of a cluster of two workers with so many cores each; gives its exit status."""
    os.environ["CTUNE_SCALE"] = "1"
    try:
        with hosts(3) as (head, *workers), cluster(head, workers, cores) as address:
            more = {"CTUNE_RAY_ADDRESS": address}
            return subprocess.run([*head.inside, *command], check=False, env=_environment(more)).returncode
    except pytest.skip.Exception as reason:
        print(reason, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
