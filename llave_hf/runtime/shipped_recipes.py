"""Where the recipes lie that come with llave_hf: in the source tree, or where pip put them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from llave_hf.errors import UserError

_SOURCE = Path(__file__).parents[2] / "recipes"


def recipes_folder() -> Path:
    """The folder of recipes/tiny.yaml and the others.

    Raises:
        UserError: The package was installed without them.
    """
    if _SOURCE.is_dir():
        return _SOURCE
    try:
        installed = files("llave-hf") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.parts[-2:] == ("recipes", "tiny.yaml"):
            return Path(str(file.locate())).resolve().parent
    raise UserError("llave_hf was installed without its recipes; install it from its wheel or its source tree.")


def named_like(path: str | Path) -> str:
    """What to say of a recipe that is not there: where the one of that name lies, or an example."""
    try:
        folder = recipes_folder()
    except UserError:
        return "give a YAML file."
    found = folder / Path(path).name
    if found.is_file():
        return f"the one of that name that comes with llave_hf is {found}."
    return f"give a YAML file, such as {folder / 'tiny.yaml'}."
