"""mteb's tasks for an encoder of this package or any other, and a benchmark's subsets as tasks of mteb.

from llave_hf.evaluation.mteb import LlaveMtebModel, mmeb_tasks

mteb.evaluate(LlaveMtebModel(folder), [*mteb.get_tasks(tasks=["CIRRIT2IRetrieval"]), *mmeb_tasks(data=pictures)])
"""

from __future__ import annotations

try:
    from .model import LlaveMtebModel
    from .tasks import MmebTask, mmeb_tasks
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "mteb":
        raise
    raise ImportError(
        "llave_hf.evaluation.mteb needs mteb (and with it Python 3.11 or newer): pip install 'llave-hf[mteb]'."
    ) from error

__all__ = ["LlaveMtebModel", "MmebTask", "mmeb_tasks"]
