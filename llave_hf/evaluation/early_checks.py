"""What can be known to fail before hours of encoding: where results go."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llave_hf.errors import UserError


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
