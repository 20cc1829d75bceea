"""A fresh process in which threads import llave_hf and transformers' Auto classes, and open a folder, at once.

    python import_threads_worker.py transformers|transformers,llave_hf FOLDER

The packages named are imported beforehand. transformers must be: two threads that both begin with it break it, with or
without llave_hf.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable


def load_config(folder: str) -> str:
    from transformers import AutoConfig

    return type(AutoConfig.from_pretrained(folder)).__name__


def load_model(folder: str) -> str:
    from transformers import AutoModel

    return type(AutoModel.from_pretrained(folder)).__name__


def auto_classes(folder: str) -> str:
    from transformers import AutoModel, AutoProcessor

    return f"{AutoModel.__name__} {AutoProcessor.__name__}"


def own_class(folder: str) -> str:
    from llave_hf import LlaveModel

    return LlaveModel.__name__


def own_file(folder: str) -> str:
    from llave_hf.model.configuration_llave import LlaveConfig

    return LlaveConfig.__name__


JOBS: dict[str, tuple[Callable[[str], str], ...]] = {
    "transformers": (own_class, auto_classes, own_file),
    "transformers,llave_hf": (own_file, load_config, own_class, load_model),
}


def main() -> None:
    packages, folder = sys.argv[1:]
    for package in packages.split(","):
        importlib.import_module(package)
    jobs = JOBS[packages]
    said = ["failed"] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(number: int) -> None:
        start.wait()
        said[number] = jobs[number](folder)

    sys.setswitchinterval(1e-5)  # many more turns than usual
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*said, load_model(folder))


if __name__ == "__main__":
    main()
