"""Dockerfile and compose.yaml without a container: what they promise is in them, and what they name is there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SERVICE_KEYS = {
    "image", "build", "restart", "read_only", "tmpfs", "cap_drop", "security_opt", "environment", "secrets", "depends_on",
    "command", "ports", "volumes", "healthcheck",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def test_compose_holds_the_service_the_review_page_and_postgresql(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"service", "review", "catalog"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("secrets", ())) <= set(compose["secrets"]), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in compose["volumes"], volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "reached from elsewhere through a proxy with TLS alone"
    assert compose["services"]["catalog"]["image"].startswith("postgres:")


def test_composed_containers_may_write_nothing_of_their_own(compose: dict[str, Any]) -> None:
    for name in ("service", "review"):
        service = compose["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"] == ["/tmp"]
        assert service["depends_on"]["catalog"]["condition"] == "service_healthy"
        assert service["command"][0] in {command.name for command in COMMANDS}, (
            "the image's entry point is ctune"
        )
    assert "--tokens" in compose["services"]["service"]["command"]


def test_passwords_are_secrets(compose: dict[str, Any]) -> None:
    environment = compose["services"]["catalog"]["environment"]
    assert "POSTGRES_PASSWORD" not in environment
    assert environment["POSTGRES_PASSWORD_FILE"] == "/run/secrets/catalog_password"


def test_the_image_has_two_stages_a_user_a_health_check_and_an_entry_point(dockerfile: str) -> None:
    first, second = re.split(r"^FROM .*$", dockerfile, flags=re.MULTILINE)[1:]
    assert "ARG BASE=" in dockerfile and "ARG DEVICE=cpu" in first
    assert "\nUSER ctune\n" in second and "\nHEALTHCHECK " in second and "/readyz" in second
    assert 'ENTRYPOINT ["ctune"]' in second and "RUN --mount" not in second
    assert "type=secret" in first and "pip.conf" not in second


def test_the_image_holds_extras_that_are_there(dockerfile: str) -> None:
    (names,) = re.findall(r"ARG EXTRAS=(\S+)", dockerfile)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(names.split(",")) <= set(extras) and "serve" in names.split(",")


def test_the_check_of_the_device_is_python(dockerfile: str) -> None:
    """The step that refuses a build of torch for another device: a line that does not parse would stop every build."""
    (code,) = re.findall(r"python3 -c '(import os.*?)'\n", dockerfile, flags=re.DOTALL)
    tree = ast.parse(code.replace("\\\n", ""))
    assert "expected a build of torch for" in ast.unparse(tree)
