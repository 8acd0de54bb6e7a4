"""A project: a folder with settings and a pool, found from anywhere inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctune.config import Config, load, preset
from ctune.errors import ConfigError, PoolError, UsageError
from ctune.project import create_project, find_project, open_project


def test_a_new_project_holds_its_settings_and_an_empty_pool(tmp_path: Path) -> None:
    config = preset("phantom", classes=("liver", "spleen"), aliases={"leber": "liver"})
    project = create_project(tmp_path / "new" / "p", config)
    assert project.config == load(project.root / "ctune.toml") == config
    assert project.pool.cases() == [] and project.pool.root == project.root / "pool"
    assert sorted(p.name for p in project.root.iterdir()) == ["ctune.toml", "pool"]


def test_a_project_is_never_made_over_another(tmp_path: Path) -> None:
    create_project(tmp_path, preset("phantom"))
    before = (tmp_path / "ctune.toml").read_bytes()
    with pytest.raises(
        PoolError, match=r"expected a folder without a project, found .*ctune\.toml; choose another"
    ):
        create_project(tmp_path, Config())
    assert (tmp_path / "ctune.toml").read_bytes() == before


def test_a_project_is_found_from_anywhere_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_project(tmp_path / "p", Config(name="outer"))
    deep = tmp_path / "p" / "rounds" / "001"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_project().config.name == "outer"
    create_project(tmp_path / "p" / "rounds", Config(name="inner"))
    assert find_project().config.name == "inner", "the nearest one"
    assert find_project(tmp_path / "p").config.name == "outer", "unless it is named"
    monkeypatch.chdir(tmp_path)
    assert find_project(Path("p")).root == tmp_path / "p", "a relative path is made whole"


def test_no_project_here_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"expected ctune\.toml in .* or a folder above it, found none; run `ctune init"
    ):
        find_project()
    with pytest.raises(UsageError, match=r"expected ctune\.toml in .*nowhere, found none; run `ctune init"):
        open_project(tmp_path / "nowhere")


def test_bad_settings_and_a_pool_that_is_gone(tmp_path: Path) -> None:
    project = create_project(tmp_path, Config())
    (tmp_path / "pool").rmdir()
    with pytest.raises(PoolError, match=r"expected a pool in .*pool, found no such folder"):
        _ = open_project(tmp_path).pool
    (project.root / "ctune.toml").write_text("nmae = 'x'\n")
    with pytest.raises(ConfigError, match="unknown key 'nmae'; did you mean 'name'"):
        open_project(tmp_path)


def test_the_registry_is_where_the_settings_say(tmp_path: Path) -> None:
    pytest.importorskip("registry")
    create_project(tmp_path, Config(registry="models")).open_registry()
    assert (tmp_path / "models").is_dir()


def test_a_pool_at_a_url(tmp_path: Path) -> None:
    from ctune.data.shared_pool import SharedPool

    project = create_project(
        tmp_path / "p", preset("phantom").model_copy(update={"pool": "memory://project-pool"})
    )
    assert isinstance(open_project(project.root).pool, SharedPool)
    assert not (project.root / "pool").exists()
    assert project.pool.cases() == []
