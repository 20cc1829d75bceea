"""`LlaveSentenceTransformer.encode` beside `SentenceTransformer.encode`: same folder, same inputs, one process.

    python tests/benchmarks/encode.py [--quick]

Runs of the two sides alternate; a ratio is the median, over the rounds, of stock's seconds by ours. Stock runs at its
default batch size and at the best of 4, 8, 16, 32 and 64. The vectors must agree. Peak memory is that of a process of
its own for each side.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from llave_hf import LlaveProcessor, LlaveSentenceTransformer
from llave_hf.checkpoints.from_scratch import build_from_scratch

BATCH_SIZES = (4, 8, 16, 32, 64)
SIZES = ((640, 480), (480, 640), (320, 240), (224, 224), (500, 333), (333, 500), (800, 600), (160, 120))
NOUNS = ("dog", "cat", "tree", "river", "house", "car", "bridge", "street", "horse", "bird", "table", "ship", "tower")
OTHERS = ("a", "the", "red", "old", "small", "large", "near", "under", "left", "right", "with", "and", "on", "bright")
Corpus = list[Any]


def sentence(numbers: np.random.Generator, words: int) -> str:
    return " ".join(numbers.choice(NOUNS if place % 3 == 2 else OTHERS) for place in range(words))


def texts(numbers: np.random.Generator, count: int) -> Corpus:
    """Half class names of 1 to 5 words, half captions of 10 to 80, as MMEB's targets."""
    short = [f"{sentence(numbers, int(n))} {i}" for i, n in enumerate(numbers.integers(1, 6, count // 2))]
    long = [f"{sentence(numbers, int(n))} {i}" for i, n in enumerate(numbers.integers(10, 81, count - count // 2))]
    return short + long


def images(folder: Path, numbers: np.random.Generator, count: int, sizes: tuple[tuple[int, int], ...]) -> list[str]:
    """Paths of distinct JPEG files."""
    paths = []
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        coarse = numbers.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        path = folder / f"{len(list(folder.iterdir()))}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return paths


def mixed(folder: Path, numbers: np.random.Generator, count: int, repeats: float) -> Corpus:
    """Texts, and images with a text, half and half; the share `repeats` of them are repeats of others."""
    distinct = round(count * (1 - repeats))
    pictures = images(folder, numbers, distinct // 2, SIZES)
    entries: Corpus = texts(numbers, distinct - len(pictures))
    entries += [{"image": path, "text": sentence(numbers, 6)} for path in pictures]
    entries += [entries[index] for index in numbers.integers(0, distinct, count - distinct)]
    return [entries[index] for index in numbers.permutation(len(entries))]


def corpora(folder: Path, scale: float) -> dict[str, tuple[Corpus, tuple[float | None, float | None]]]:
    """Inputs and goals (at the default batch size, at the best) of each workload."""
    media = folder / "media"
    media.mkdir()
    numbers = np.random.default_rng(0)
    return {
        "texts": (texts(numbers, round(240 * scale)), (1.5, None)),
        "images of mixed sizes": (images(media, numbers, round(32 * scale), SIZES), (None, None)),
        "images of one size": (images(media, numbers, round(32 * scale), ((320, 240),)), (1.1, None)),
        "mixed, 30 % repeats": (mixed(media, numbers, round(100 * scale), 0.3), (2.5, 1.3)),
        "mixed, half repeats": (mixed(media, numbers, round(100 * scale), 0.5), (3.5, None)),
    }


def save_model(folder: Path) -> None:
    """Some 30 million parameters in the proportions of LLaVE-0.5B."""
    numbers = np.random.default_rng(1)
    model, processor = build_from_scratch(
        texts(numbers, 400),
        vocab_size=4096,
        vision_config={
            "hidden_size": 288,
            "intermediate_size": 1152,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
        },
        text_config={
            "hidden_size": 384,
            "intermediate_size": 2080,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = action()
    return time.perf_counter() - start, made


def compare(stock: SentenceTransformer, ours: LlaveSentenceTransformer, corpus: Corpus, rounds: int) -> dict[str, Any]:
    """Ratios of the seconds of both sides; raises AssertionError where their vectors differ."""
    sweep = {size: seconds(lambda size=size: stock.encode(corpus, batch_size=size))[0] for size in BATCH_SIZES}
    best = min(sweep, key=lambda size: sweep[size])
    ratios: dict[str, list[float]] = {"default": [], "best": []}
    for _ in range(rounds):
        by_ours, got = seconds(lambda: ours.encode(corpus))
        by_default, expected = seconds(lambda: stock.encode(corpus))
        by_best, _ = seconds(lambda: stock.encode(corpus, batch_size=best))
        ratios["default"].append(by_default / by_ours)
        ratios["best"].append(by_best / by_ours)
        difference = float(np.abs(got - expected).max())
        assert difference <= 1e-6, f"vectors differ by {difference:.1e}"
    return {name: statistics.median(values) for name, values in ratios.items()} | {
        "best size": best,
        "difference": difference,
        "rate": len(corpus) / by_ours,
    }


def compare_preprocessing(rounds: int) -> tuple[float, float]:
    """transformers' seconds by ours for the same pixels at 384 px, and ours with one thread by ours with two."""
    _, made = build_from_scratch(["a dog"], vocab_size=300, vision_config=VISION_384, text_config=TEXT_SMALL)
    # Pillow 13 goes down first where that is cheaper; transformers takes what is installed.
    ours = LlaveProcessor(made.tokenizer, image_size=384, patch_size=14, resize_order="installed")
    theirs = LlavaOnevisionImageProcessorPil(
        size={"height": 384, "width": 384},
        image_grid_pinpoints=[[height, width] for width, height in ours.image_grid_pinpoints],
        image_mean=ours.image_mean,
        image_std=ours.image_std,
    )
    numbers = np.random.default_rng(2)
    pictures = [
        Image.fromarray(numbers.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8)).resize((w, h))
        for w, h in SIZES * 2
    ]
    for picture in pictures:
        made_by_ours = ours(images=[picture])["pixel_values"]
        made_by_theirs = theirs(images=[picture], return_tensors="pt")["pixel_values"][0]
        assert made_by_ours.equal(made_by_theirs[: len(made_by_ours)]), f"pixels of {picture.size} differ"
    ratios, speedups = [], []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        for _ in range(rounds * 2):
            by_theirs, _ = seconds(lambda: [theirs(images=[picture], return_tensors="pt") for picture in pictures])
            by_one, _ = seconds(lambda: list(one.map(lambda picture: ours(images=[picture]), pictures)))
            by_two, _ = seconds(lambda: list(two.map(lambda picture: ours(images=[picture]), pictures)))
            ratios.append(by_theirs / by_one)
            speedups.append(by_one / by_two)
    return statistics.median(ratios), statistics.median(speedups)


VISION_384 = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 384,
    "patch_size": 14,
}
TEXT_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


def peak_memory(side: str, folder: Path, corpus: Corpus) -> float:
    """MiB at the most in a process that loads the model and encodes."""
    path = folder / "corpus.json"
    path.write_text(json.dumps(corpus))
    command = [sys.executable, __file__, "--measure", side, str(folder / "model"), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.splitlines()[-1])


def own_peak() -> float:
    """This process's largest resident size, in KiB. getrusage counts what the parent held when it forked, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def measure(side: str, model: str, corpus: str) -> None:
    """The child process of [`peak_memory`]."""
    kind = LlaveSentenceTransformer if side == "ours" else SentenceTransformer
    kind(model, device="cpu").encode(json.loads(Path(corpus).read_text()))
    print(own_peak() / 1024)


def report(folder: Path, rounds: int, scale: float) -> None:
    save_model(folder / "model")
    stock = SentenceTransformer(str(folder / "model"), device="cpu")
    ours = LlaveSentenceTransformer(str(folder / "model"), device="cpu")
    print(f"{sum(p.numel() for p in ours.parameters()) / 1e6:.0f} million parameters\n")
    print("| workload | inputs | ratio at default batch | ratio at best batch | goal | inputs/s | difference |")
    print("|---|---|---|---|---|---|---|")
    workloads = corpora(folder, scale)
    for name, (corpus, goals) in workloads.items():
        stock.encode(corpus[:8])
        ours.encode(corpus[:8])
        found = compare(stock, ours, corpus, rounds)
        goal = " / ".join(f"{goal} x" if goal else "-" for goal in goals)
        print(
            f"| {name} | {len(corpus)} | {found['default']:.2f} x | {found['best']:.2f} x ({found['best size']}) "
            f"| {goal} | {found['rate']:.0f} | {found['difference']:.0e} |",
            flush=True,
        )
    ratio, speedup = compare_preprocessing(rounds)
    print("\n| preprocessing, 384 px, same pixels | ratio | goal |\n|---|---|---|")
    print(f"| transformers' PIL path by ours | {ratio:.2f} x | 1.8 x |")
    print(f"| one worker by two | {speedup:.2f} x | 1.5 x |", flush=True)
    print("\n| peak memory, MiB | stock | ours |\n|---|---|---|")
    for name in ("images of mixed sizes", "mixed, 30 % repeats"):
        corpus, _ = workloads[name]
        print(f"| {name} | {peak_memory('stock', folder, corpus):.0f} | {peak_memory('ours', folder, corpus):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small corpora, one round: does it run?")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), rounds=1 if arguments.quick else 3, scale=0.25 if arguments.quick else 1.0)


if __name__ == "__main__":
    main()
