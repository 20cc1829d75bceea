"""Mixes three models over a fourth in a process of its own, whose heap nothing else has used:

python memory_worker.py FOLDER

Prints the bytes of a model, by how many the process grew at the most (VmRSS: its own memory, and pages of files that
it has read), and how often that was looked at.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from helpers import TEXTS

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.checkpoints.soup import soup
from llave_hf.checkpoints.soup.parents import open_parent


def held() -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def main() -> None:
    folder = Path(sys.argv[1])
    text = {"hidden_size": 64, "intermediate_size": 40_000, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 7}
    for seed in range(4):
        model, processor = build_from_scratch(
            TEXTS, vocab_size=320, vision_config=vision, text_config={**text, "num_key_value_heads": 4}, seed=seed
        )
        size = sum(parameter.nbytes for parameter in model.parameters())
        for part in (model, processor):
            part.save_pretrained(folder / str(seed))
        del model
    *parents, base = [open_parent(folder / str(seed), folder) for seed in range(4)]
    gc.collect()
    before, peaks = held(), []
    ended = threading.Event()
    watcher = threading.Thread(target=lambda: [peaks.append(held()) for _ in iter(lambda: ended.wait(0.005), True)])
    watcher.start()
    soup._combine(soup.Mixture("ties", (1 / 3,) * 3), parents, base, None)
    ended.set()
    watcher.join()
    print(json.dumps({"size": size, "grown": max(peaks) - before, "looks": len(peaks)}))


if __name__ == "__main__":
    main()
