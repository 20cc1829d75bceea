"""Recipes are found in the source tree and where pip put them, and no recipe is left out of the wheel."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llave_hf.errors import UserError
from llave_hf.runtime import shipped_recipes
from llave_hf.runtime.shipped_recipes import named_like, recipes_folder
from llave_hf.training.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def test_the_source_tree_has_them() -> None:
    assert recipes_folder() == ROOT / "recipes"


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """An environment into which pip wrote these files."""
    folder = tmp_path / "share" / "llave_hf" / "recipes"
    folder.mkdir(parents=True)
    found = []
    for name in names:
        (folder / name).write_text("{}")
        found.append(importlib.metadata.PackagePath(f"../share/llave_hf/recipes/{name}"))
        found[-1].dist = importlib.metadata.Distribution.at(tmp_path / "site" / "llave_hf.dist-info")
    lie_elsewhere(monkeypatch, tmp_path)
    monkeypatch.setattr(shipped_recipes, "files", lambda name: found)
    return folder


def lie_elsewhere(monkeypatch: pytest.MonkeyPatch, root: Path, data: str = "nowhere") -> None:
    """The package lies in a folder of packages, and its environment's data in another."""
    monkeypatch.setattr(shipped_recipes, "_SOURCE", root / "absent")
    monkeypatch.setattr(shipped_recipes, "_BESIDE", root / "site")
    monkeypatch.setattr(shipped_recipes.sysconfig, "get_path", lambda name: str(root / data))


def test_installed_ones_are_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = installed(tmp_path, monkeypatch, "tiny.yaml", "llave-2b.yaml")
    assert recipes_folder() == folder.resolve()
    assert named_like("recipes/llave-2b.yaml").endswith(f"is {folder.resolve() / 'llave-2b.yaml'}.")
    assert named_like("mine.yaml") == f"give a YAML file, such as {folder.resolve() / 'tiny.yaml'}."
    with pytest.raises(ValueError, match=r"recipes/llave-2b\.yaml does not exist; the one of that name"):
        load_recipe(tmp_path / "recipes" / "llave-2b.yaml")


@pytest.mark.parametrize("place", ["site", "data"])
def test_those_that_the_record_misplaces_are_found(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target` moves them beside the package and records where they were."""
    gone = installed(tmp_path, monkeypatch, "tiny.yaml")
    lie_elsewhere(monkeypatch, tmp_path, "data")
    folder = tmp_path / place / "share" / "llave_hf" / "recipes"
    folder.parent.mkdir(parents=True)
    gone.rename(folder)
    assert recipes_folder() == folder.resolve()


@pytest.mark.slow
def test_a_wheel_in_a_target_folder_finds_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("llave_hf", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(tmp_path / "target"), str(source)], check=True)
    ask = "from llave_hf.runtime.shipped_recipes import recipes_folder; print(recipes_folder())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "target")}
    said = subprocess.run(
        [sys.executable, "-c", ask], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    folder = Path(said.stdout.strip())
    assert folder.is_relative_to(tmp_path / "target") and (folder / "accelerate" / "cpu.yaml").is_file()


def test_an_installation_without_them_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="installed without its recipes"):
        recipes_folder()
    assert named_like("tiny.yaml") == "give a YAML file."


def test_the_wheel_takes_every_recipe() -> None:
    tomllib = pytest.importorskip("tomllib") if sys.version_info >= (3, 11) else pytest.importorskip("tomli")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data = settings["tool"]["setuptools"]["data-files"]
    taken = {path for globs in data.values() for glob in globs for path in ROOT.glob(glob)}
    recipes = ROOT / "recipes"
    wanted = {*recipes.glob("*.yaml"), *recipes.glob("*.md"), *(recipes / "accelerate").iterdir()}
    assert len(wanted) > 10 and wanted <= taken
    for folder, globs in data.items():
        assert all((ROOT / glob).parent.name == Path(folder).name for glob in globs)
