"""Inside an image in which `ctune demo --size tiny` has run: serve its model, and ask it for one of its CTs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from ctune.serve.client import Client

URL = "http://127.0.0.1:3000"


def main() -> None:
    name, project = "demo@production", Path("ctune-demo")
    ct = min((project / "truth").rglob("ct.nii.gz"))
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "ctune",
            "serve",
            name,
            "--project",
            str(project),
            "--host",
            "127.0.0.1",
            "--state",
            folder + "/state",
        ]
        service = subprocess.Popen(command)
        try:
            seconds = wait(service)
            with Client(URL) as client:
                volumes = client.segment(ct, Path(folder) / "labels.nii.gz")
            size = (Path(folder) / "labels.nii.gz").stat().st_size
            print(f"{name}: ready after {seconds:.1f} s; {ct.name}: {volumes} mL, {size} bytes")
        finally:
            service.terminate()
            service.wait(30)


def wait(service: subprocess.Popen[bytes]) -> float:
    """Seconds until the service is ready."""
    begun = time.monotonic()
    while time.monotonic() < begun + 120:
        if service.poll() is not None:
            sys.exit(f"expected a service, it ended with {service.returncode}")
        try:
            urllib.request.urlopen(f"{URL}/readyz", timeout=5)
            return time.monotonic() - begun
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("expected a service within 120 s, got none")


if __name__ == "__main__":
    main()
