"""What was found in a file, kept for the next start: Arrow tables in the Hugging Face cache (`HF_HOME`).

A table counts only while its file has the length and the time of change that it had. All may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
from huggingface_hub import constants

logger = logging.getLogger(__name__)

FORMAT = "1"  # of what is kept; another one is made anew
_HEAD = 128  # bytes before the table, for its digest and the state of the file
_QUIET_NS = 2_000_000_000  # a file that changed so lately may be changed again without another time
_NO_TIME_NS = 315_619_200 * 1_000_000_000  # 1980-01-02: before it stand the zeros of file systems without times


def kept_tables() -> Path:
    """Where tables are kept."""
    return Path(constants.HF_HOME) / "llave_hf" / "archives"


def state_of(file: str) -> str | None:
    """What says whether a file has changed; None where nothing does. That is where its time of change is missing, in
    the future, or less than two seconds ago.

    Raises:
        OSError: The file is not there.
    """
    now, found = time.time_ns(), os.stat(file)
    if not _NO_TIME_NS <= found.st_mtime_ns < now - _QUIET_NS:
        return None
    return f"{FORMAT} {found.st_size} {found.st_mtime_ns}"


def kept_table(file: str, state: str | None, what: str, make: Callable[[], pa.Table]) -> pa.Table:
    """A table that is made of a file, or what was made of it at an earlier start.

    Args:
        file: The file.
        state: Its [`state_of`], from before anything of it was read.
        what: Says which table, where there are several of a file.
        make: Makes it. It is not kept where there is no state, or another one afterwards.

    Raises:
        OSError: The file is not there.
    """
    if state is None:
        return make()
    name = hashlib.sha256("\0".join((os.path.abspath(file), what)).encode(errors="surrogateescape")).hexdigest()
    path = kept_tables() / name[:2] / name
    kept = _read(path, state)
    if kept is not None:
        return kept
    table = make()
    if state == state_of(file):
        try:
            _write(path, state, table)
        except OSError as error:  # no room on the disk, or a folder that may not be written to
            _tell_of_no_room(f"{kept_tables()} ({error.strerror})")
    return table


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file so that other processes, which may write it as well, see it whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".unfinished", delete=False) as unfinished:
        try:
            write(unfinished)
            unfinished.close()
            os.replace(unfinished.name, path)
        except BaseException:
            os.unlink(unfinished.name)
            raise


def _read(path: Path, state: str) -> pa.Table | None:
    """None where there is nothing, or nothing whole, or what was made of another state of the file."""
    try:
        content = pa.py_buffer(path.read_bytes())
    except OSError:
        return None
    table = content.slice(_HEAD) if content.size > _HEAD else content
    if content[:_HEAD].to_pybytes().rstrip(b"\0").decode(errors="replace") != f"{_digest(table)} {state}":
        return None
    return pa.ipc.open_file(table).read_all()


def _write(path: Path, state: str, table: pa.Table) -> None:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    content = stream.getvalue()

    def write(file: IO[bytes]) -> None:
        file.write(f"{_digest(content)} {state}".encode().ljust(_HEAD, b"\0"))
        file.write(content)

    write_whole(path, write)


def _digest(content: pa.Buffer) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@functools.cache
def _tell_of_no_room(reason: str) -> None:
    logger.warning(
        "What is found in archives cannot be kept in %s: each start goes through them again. Make room, or set "
        "HF_HOME.",
        reason,
    )
