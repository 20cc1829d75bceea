"""Another process, in which the loopback Hub is the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from loopback_hub import LoopbackHub

WRITE = "hf_write"  # the token of who may write


class Client:
    """Runs what `hub_client.py` is told, one line after another."""

    def __init__(self, hub: LoopbackHub, home: Path) -> None:
        environment = hub.environment(home)
        paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
        command = [sys.executable, str(Path(__file__).with_name("hub_client.py"))]
        self.process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *argv: str, token: str | None = WRITE) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"argv": argv, "env": {"HF_TOKEN": token}}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
