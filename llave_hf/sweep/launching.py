"""The command that starts a training's processes: one, or several through `accelerate launch`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from llave_hf.errors import UserError
from llave_hf.runtime.places import check_file

from .checks import check_number, mapping


@dataclass(frozen=True)
class Launch:
    """One process, or several by `accelerate launch`.

    Attributes:
        processes: That share a run.
        config: An accelerate configuration, or None.
    """

    processes: int = 1
    config: Path | None = None

    @classmethod
    def of(cls, processes: int | None, config: str | None) -> Launch:
        """What the command line asks for; the number of processes is the configuration's where it gives none.

        Raises:
            UserError: There is no such file, it has no num_processes, or the number is not above 0.
        """
        if config is None:
            return cls(check_number(1 if processes is None else processes, "--num_processes"))
        check_file(config, "--accelerate_config")
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"--accelerate_config {config} is no YAML ({' '.join(str(error).split())}).") from error
        given = mapping(content, f"--accelerate_config {config}").get("num_processes")
        wanted = given if processes is None else processes
        return cls(check_number(wanted, f"{config}: num_processes"), Path(config))

    @property
    def command(self) -> list[str]:
        """Of `python -m`, up to the name of the module."""
        if self.processes == 1 and self.config is None:
            return [sys.executable, "-m"]
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(self.processes)]
        launch += ["--main_process_port", "0"]  # any that is free: runs may go side by side
        if self.config is not None:
            return [*launch, "--config_file", str(self.config), "-m"]
        kind = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        return [*launch, *kind, "-m"]

    def environment(self, parallel: int, use_cpu: bool) -> dict[str, str]:
        """This process's, and the cores shared out among all that run at a time."""
        threads = max(1, (os.cpu_count() or 1) // (parallel * self.processes))
        shared = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **os.environ}
        # With --cpu accelerate would silently start one process.
        return {**shared, "ACCELERATE_USE_CPU": "1"} if use_cpu and self.processes > 1 else shared
