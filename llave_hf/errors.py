"""Errors that are the user's to mend, told in one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Something in the input, the files or the settings; the message says what, where and what to do."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line: exit code 2 on errors in input, files and settings, 130 on Ctrl-C.

    `LLAVE_DEBUG=1` in the environment keeps the traceback.
    """
    try:
        yield
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if os.environ.get("LLAVE_DEBUG"):
            raise
        stopped = isinstance(error, KeyboardInterrupt)
        sys.stderr.write("llave: stopped\n" if stopped else f"llave: error: {error}\n")
        sys.exit(130 if stopped else 2)
