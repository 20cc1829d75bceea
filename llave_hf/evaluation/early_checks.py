"""What can be known to fail before hours of encoding: where results go, and a model's path."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from llave_hf.errors import UserError

HUB_MODEL = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_folder(folder: Path, what: str) -> None:
    """See that files can be written into a folder, or that it can be made where it is missing.

    Args:
        what: it is for, the message's first words.

    Raises:
        UserError: that fails.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{what} {folder} is no folder to write to ({error.strerror}): choose another.") from error


def check_model(model: Any) -> None:
    """Look for a model that can only be a folder; an object is taken as it is.

    Raises:
        UserError: there is no such folder, and no Hub id is written like that.
    """
    if isinstance(model, (str, os.PathLike)) and not os.path.exists(model):
        name = os.fspath(model)
        if not HUB_MODEL.fullmatch(name):
            raise UserError(f"There is no model folder {name}: check the path, or give a Hub id (owner/name).")
