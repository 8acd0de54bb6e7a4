"""For every test, before torch is loaded: waiting threads sleep, as they do under the command line."""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores already; more threads than cores only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = ("test_tutorial", "test_registry_kills", "test_docs", "test_demo", "test_phantom")
"""Files that take longest come first: the last test to end decides when a run of several processes is over."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
