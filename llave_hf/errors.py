"""How a program ends: errors that are the user's to mend in one line, and ranks without Python's own shutdown."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell gives a process which the signal ended


class UserError(ValueError):
    """Something in the input, the files or the settings; the message says what, where and what to do."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line: exit code 2 on errors in input, files and settings, 130 on Ctrl-C.

    Without a line and with 141, as the shell's own commands, where nobody reads standard output any more (`| head`).
    `LLAVE_DEBUG=1` in the environment keeps the traceback.
    """
    try:
        yield
        sys.stdout.flush()  # here, where it can be said well, and not at the very end
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if os.environ.get("LLAVE_DEBUG"):
            raise
        if isinstance(error, BrokenPipeError) and _reader_left():
            sys.exit(141)
        stopped = isinstance(error, KeyboardInterrupt)
        sys.stderr.write("llave: stopped\n" if stopped else f"llave: error: {error}\n")
        sys.exit(130 if stopped else 2)


def _reader_left() -> bool:
    """Whether it is standard output whose other end is closed, and no connection."""
    output = sys.stdout.fileno()
    ends = select.poll()
    ends.register(output, 0)  # asks for nothing but what is always told: that the other end is closed
    if not ends.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # else Python complains once more at its end
    return True


def leave_ranks(status: int = 0) -> None:
    """Ends a rank that has done all it had to: exit handlers run, Python's own shutdown does not.

    That one aborts now and then where a thread of gloo still holds a tensor, and takes up to a minute with an engine
    in memory. Does nothing in a process that was started alone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
