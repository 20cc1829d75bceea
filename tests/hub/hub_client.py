"""A process that uses the Hub at HF_ENDPOINT: reads `{"argv": [...], "env": {...}}` lines and answers each.

`argv` is a command line of `llave`, or `python` and source whose `result` is answered.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def run(argv: list[str]) -> Any:
    if argv[0] == "python":
        names: dict[str, Any] = {}
        exec(argv[1], names)
        return names["result"]
    from llave_hf import cli

    return cli.main(argv)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    for name, value in asked["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    out, code, result = io.StringIO(), 0, None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            result = run(asked["argv"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
    return {"code": code, "output": out.getvalue(), "result": result}


if __name__ == "__main__":
    answers = sys.stdout
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
