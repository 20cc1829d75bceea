"""How a program ends: errors that are the user's to mend in one line, and ranks without Python's own shutdown."""

from __future__ import annotations

import atexit
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


def leave_ranks() -> None:
    """Ends a rank that has done all it had to: exit handlers run, Python's own shutdown does not.

    That one aborts now and then where a thread of gloo still holds a tensor, and takes up to a minute with an engine
    in memory. Does nothing in a process that was started alone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
