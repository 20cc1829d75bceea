"""Runs that are killed at a chosen moment. As a script: python killing.py RECIPE FOLDER MOMENT...

A moment is one of

- a number: at the n-th change of a file under FOLDER (opened for writing, made, moved, removed) the process kills
  itself with SIGKILL;
- `full:NAME`: from the first change of a path with NAME in it on, the disk is full (no file grows past 1,000 bytes);
- `at:N`: the kernel kills the process when it writes past the N-th byte of a file (SIGXFSZ).

The run then goes on with --resume_from_checkpoint. Prints, as a line of JSON, whether it was killed and what it left;
and first, for a run that is left alone, how many changes there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from llave_hf.runtime.quick_imports import quick_imports

_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")


class Changes:
    """Counts changes of files under a folder by Python's audit events, and acts at the n-th."""

    def __init__(self, folder: Path, act_at: int | str | None = None, act: Callable[[], None] | None = None) -> None:
        self.folder, self.act_at, self.act, self.count = str(folder), act_at, act, 0
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in _CHANGES or not str(arguments[0]).startswith(self.folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self.count += 1
        named = isinstance(self.act_at, str) and self.act_at in str(arguments[0])
        if self.act is not None and (named or self.count == self.act_at):
            self.act()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fork(run: Callable[[], None]) -> int:
    """Runs in a child; its exit status, negative: the signal that killed it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with contextlib.redirect_stdout(sys.stderr):
                run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(recipe: str, folder: Path, moments: list[str]) -> None:
    with quick_imports():
        import llave_hf.hub.card.model_card  # noqa: F401  # once, for all that are forked
        from llave_hf.training.recipe.recipe import load_recipe
        from llave_hf.training.run import train

    def run(out: Path, moment: str | None, *, go_on: bool) -> None:
        changes = None
        if moment is not None and moment.startswith("at:"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            limit_files(int(moment.removeprefix("at:")))
        elif moment is not None and moment.startswith("full:"):
            changes = Changes(out, moment.removeprefix("full:"), lambda: limit_files(1000))
        else:
            changes = Changes(out, None if moment is None else int(moment), kill)
        train(load_recipe(recipe, ["--output_dir", str(out), *(["--resume_from_checkpoint"] if go_on else [])]))
        if changes is not None and moment is None and not go_on:
            sys.__stdout__.write(json.dumps({"changes": changes.count}) + "\n")
            sys.__stdout__.flush()

    if not (folder / "whole").exists():
        assert fork(lambda: run(folder / "whole", None, go_on=False)) == 0
    for moment in moments:
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        killed = fork(lambda: run(out, moment, go_on=False))  # noqa: B023  # runs now
        left = sorted(str(path.relative_to(out)) for path in out.glob("*")) if out.exists() else []
        resumed = fork(lambda: run(out, None, go_on=True))  # noqa: B023
        files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        same = [name for name in files if equal(out / name, folder / "whole" / name)]
        print(  # noqa: T201
            json.dumps(
                {"moment": moment, "killed": killed, "left": left, "resumed": resumed, "files": files, "equal": same}
            )
        )


def equal(one: Path, other: Path) -> bool:
    if not other.exists():
        return False
    if one.name == "trainer_state.json":
        return _without_times(one) == _without_times(other)
    if one.name == "telemetry.pt":  # a pickle's bytes also depend on which strings are the same object
        return contents(one) == contents(other)
    return one.read_bytes() == other.read_bytes()


def contents(path: Path) -> str:
    import torch

    torch.set_printoptions(threshold=10**9)
    return str(torch.load(path, weights_only=True))


def _without_times(path: Path) -> dict[str, object]:
    """Without what Trainer reckons from the last start on."""
    state = json.loads(path.read_text(encoding="utf-8"))
    for log in state["log_history"]:
        for name in [name for name in log if name.endswith(("_runtime", "_per_second", "loss"))]:
            del log[name]
    return state


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
