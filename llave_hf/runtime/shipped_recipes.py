"""Where the recipes lie that come with llave_hf: in the source tree, or where pip put them."""

from __future__ import annotations

import sysconfig
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from llave_hf.errors import UserError

_BESIDE = Path(__file__).parents[2]  # the source tree, or the folder of installed packages
_SOURCE = _BESIDE / "recipes"
_SHARED = ("share", "llave_hf", "recipes")


def recipes_folder() -> Path:
    """The folder of recipes/tiny.yaml and the others.

    Raises:
        UserError: The package was installed without them.
    """
    for folder in (_SOURCE, *_recorded(), *(Path(root, *_SHARED) for root in (_BESIDE, sysconfig.get_path("data")))):
        if (folder / "tiny.yaml").is_file():
            return folder.resolve()
    raise UserError("llave_hf was installed without its recipes; install it from its wheel or its source tree.")


def _recorded() -> list[Path]:
    """What pip wrote down; `pip install --target` puts them elsewhere afterwards, beside the package."""
    try:
        installed = files("llave-hf") or []
    except PackageNotFoundError:
        return []
    return [
        Path(str(file.locate())).resolve().parent for file in installed if file.parts[-2:] == ("recipes", "tiny.yaml")
    ]


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
