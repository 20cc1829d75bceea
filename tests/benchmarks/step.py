"""A training step of `LlaveTrainer` beside one of sentence-transformers: same weights, same pairs in the same batches.

    python tests/benchmarks/step.py                # 64, 256 and 1024 pairs a batch
    python tests/benchmarks/step.py --pairs 64     # one of them
    python tests/benchmarks/step.py --quick        # small batches, one round: does it run?

sentence-transformers is `SentenceTransformerTrainer` with `CachedMultipleNegativesRankingLoss` on the model's saved
folder. Both run `train()` with AdamW and clipping, pictures from files, hardness off and both directions on, so that
they compute the same loss; embeddings and losses are compared before anything is timed. Turns of the two alternate; a
figure is the median over the turns, a ratio the median of the turns' ratios. With OMP_NUM_THREADS=1 the processor's
time is measured and not the wall's, which a busy machine changes less.

- images to texts: a picture and an instruction -> a caption.
- mix: half of the rows so, half a caption -> a picture, so that each column holds short texts and pictures.

sentence-transformers cannot cut a column that mixes texts and pictures of this backbone into mini-batches (the error
is printed); it can hold the column whole. It is therefore measured with a remedy that its users do not have,
`cut_mixed_columns`, and also whole. Pictures are one tile, as it cannot cut tiles either.

The split of a step's time comes from hooks on the same modules in both. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data.pairs import load_pairs
from llave_hf.data.samples import Sample
from llave_hf.data.scenes import write_scenes
from llave_hf.data.tasks import PairDataset
from llave_hf.from_scratch import build_from_scratch
from llave_hf.training import grad_cache
from llave_hf.training.arguments import LlaveTrainingArguments
from llave_hf.training.parts import freeze_parts
from llave_hf.training.trainer import LlaveTrainer

WORKLOADS = {"images to texts": ("SceneCaption_i2t",), "mix": ("SceneCaption_i2t", "SceneCaption_t2i")}
GOALS = {"images to texts": 1.5, "mix": 2.0}
MEMORY_GOAL = 0.8
DEFAULT_SIZE = 32  # sentence-transformers'
MINI_BATCH_SIZES = (8, 16, 32, 64)
TEMPERATURE = 0.02
PHASES = ("data", "vision tower", "language model", "loss", "optimizer", "rest")
SIDES = ("llave_hf", "sentence-transformers")


# ------------------------------------------------------------------------------------------------- model and data


def save_model(folder: Path, texts: list[str]) -> None:
    """Two million parameters; tower and language model cost about as much as LLaVE-0.5B's do beside each other."""
    model, processor = build_from_scratch(
        texts,
        vocab_size=1024,
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        text_config={
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.09,
        },
        processor={"image_tiling": "none"},
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_data(root: Path, rows: int) -> list[str]:
    """`rows` rows of each of two tasks of the built-in data, no query and no document twice; returns some texts."""
    tasks = WORKLOADS["mix"]
    write_scenes(root, train_pairs=round(8 * rows * 1.05) + 80, eval_queries=12)
    texts = []
    for task in tasks:
        (file,) = (root / "train" / task).glob("*.parquet")
        kept: dict[tuple[str, str], dict[str, str]] = {}
        for row in pq.read_table(file).to_pylist():
            kept.setdefault((row["qry"], row["pos_text"]) if "i2t" not in task else ("", row["pos_text"]), row)
        chosen = list(kept.values())[:rows]
        (root / "pairs" / task).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in chosen)
        (root / "pairs" / task / "original.jsonl").write_text(lines, encoding="utf-8")
        texts += [row[column] for row in chosen[:400] for column in ("qry", "pos_text")]
    return texts


def open_data(root: Path, workload: str) -> PairDataset:
    return load_pairs(
        str(root / "pairs"), media_root=str(root), subsets=list(WORKLOADS[workload]), use_negatives=False
    )


def as_stock_input(sample: Sample) -> Any:
    """A sample as sentence-transformers takes it: a text, or a dictionary with the path of its picture."""
    if not sample.images:
        return sample.text
    return {"text": sample.text, "image": str(Path(sample.media_root or "") / sample.images[0])}


# ---------------------------------------------------------------------------------------------------------- the clock


class Clock(TrainerCallback):
    """Where the time of `train()` goes: each event says what begins now. Starts and ends with the training loop."""

    def __init__(self) -> None:
        self.now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.spent: Counter[str] = Counter()
        self.phase, self.since = "rest", 0.0

    def enter(self, phase: str) -> None:
        now = self.now()
        self.spent[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            made = function(*args, **kwargs)
            self.enter("rest")
            return made

        return timed

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.spent.clear()
        self.phase, self.since = "rest", self.now()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.enter("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.enter("rest")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.enter("rest")  # what follows the last step is not counted

    def watch(self, model: LlaveModel) -> None:
        """Forward and backward of the tower (with its projector) and of the language model."""
        backbone = model.backbone

        def before_text(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            embeds = kwargs["inputs_embeds"]
            after = "vision tower" if self.phase == "vision tower" else "rest"  # is there a picture behind it?
            self.enter("language model")
            if embeds.requires_grad:
                embeds.register_hook(lambda gradient: self.enter(after))

        def after_text(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            self.enter("language model" if kwargs.get("use_cache") else "rest")  # a shared prefix, within the other
            if output.last_hidden_state.requires_grad:
                output.last_hidden_state.register_hook(lambda gradient: self.enter("language model"))

        backbone.vision_tower.register_forward_pre_hook(lambda *_: self.enter("vision tower"))
        backbone.language_model.register_forward_pre_hook(before_text, with_kwargs=True)
        backbone.language_model.register_forward_hook(after_text, with_kwargs=True)


# ---------------------------------------------------------------------------------------------------------- the sides


def common_arguments(folder: Path, pairs: int, steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": pairs,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "seed": 0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_drop_last": True,
    }


class Side:
    """A trainer of one library. `model` is the [`LlaveModel`] in it."""

    model: LlaveModel
    trainer: Any

    def __init__(self) -> None:
        self.clock = Clock()

    def set_size(self, mini_batch_size: int) -> None:
        raise NotImplementedError

    def turn(self) -> dict[str, float]:
        """Seconds a pair of one `train()`, by phase."""
        self.trainer.remove_callback(PrinterCallback)  # else it prints each loss
        self.trainer.train()
        pairs = self.trainer.args.max_steps * self.trainer.args.per_device_train_batch_size
        return {phase: self.clock.spent[phase] / pairs for phase in PHASES}

    def first_loss(self) -> float:
        return next(entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry)


class Ours(Side):
    """`LlaveTrainer`, with gradient caching."""

    def __init__(self, folder: Path, data: PairDataset, frozen: bool, pairs: int, steps: int) -> None:
        super().__init__()
        self.model = LlaveModel.from_pretrained(folder / "model")
        arguments = LlaveTrainingArguments(
            **common_arguments(folder, pairs, steps),
            temperature=TEMPERATURE,
            hardness_strength=0,
            batch_tasks="mixed",
            mini_batch_size=DEFAULT_SIZE,
            freeze=["vision_tower"] if frozen else [],
        )
        processor = LlaveProcessor.from_pretrained(folder / "model")
        self.trainer = LlaveTrainer(self.model, arguments, data, processing_class=processor, callbacks=[self.clock])
        self.collator = self.trainer.data_collator
        self.trainer.data_collator = self.clock.around("data", self.collator)
        self.clock.watch(self.model)

    def set_size(self, mini_batch_size: int) -> None:
        self.collator.collator.limits["mini_batch_size"] = mini_batch_size

    def batches(self) -> list[list[int]]:
        """The rows of each batch, as `LlaveTrainer` plans them."""
        return list(self.trainer.get_train_dataloader().batch_sampler)

    def turn(self) -> dict[str, float]:
        plain = grad_cache._gradients_of_embeddings
        grad_cache._gradients_of_embeddings = self.clock.around("loss", plain)
        try:
            return super().turn()
        finally:
            grad_cache._gradients_of_embeddings = plain

    @torch.no_grad()
    def embeddings(self, rows: list[int]) -> torch.Tensor:
        """`(2 B, D)`: queries, then documents."""
        batch = self.collator([self.trainer.train_dataset[row] for row in rows])
        distinct = self.model.eval()(micro_batches=batch["micro_batches"]).embeddings
        return torch.cat((distinct[batch["query_index"]], distinct[batch["document_index"]]))


class Batches(torch.utils.data.BatchSampler):
    """A plan made before."""

    def __init__(self, plan: list[list[int]]) -> None:
        self.plan, self.batch_size, self.drop_last, self.sampler = plan, len(plan[0]), True, None

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class Theirs(Side):
    """`SentenceTransformerTrainer` with its cached loss, on the batches of `plan`.

    Args:
        remedy: Whether to apply `cut_mixed_columns`.
    """

    def __init__(
        self,
        folder: Path,
        data: PairDataset,
        frozen: bool,
        plan: list[list[int]],
        steps: int,
        remedy: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = SentenceTransformer(str(folder / "model"), device="cpu")
        self.model = self.encoder[0].auto_model
        freeze_parts(self.model, ["vision_tower"] if frozen else [])
        if remedy:
            cut_mixed_columns(self.encoder)
        self.loss = CachedMultipleNegativesRankingLoss(
            self.encoder,
            scale=1 / TEMPERATURE,
            mini_batch_size=DEFAULT_SIZE,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )
        arguments = SentenceTransformerTrainingArguments(
            **common_arguments(folder, len(plan[0]), steps), batch_sampler=lambda dataset, **_: Batches(plan)
        )
        pairs = [data[row] for row in range(len(data))]
        self.inputs = [(as_stock_input(pair.query), as_stock_input(pair.positive)) for pair in pairs]
        self.trainer = SentenceTransformerTrainer(
            self.encoder, arguments, self._columns(), loss=self.loss, callbacks=[self.clock]
        )
        collator = self.trainer.data_collator
        collator.preprocess_fn = self.clock.around("data", collator.preprocess_fn)
        self.loss.calculate_loss = self.clock.around("loss", self.loss.calculate_loss)
        self.clock.watch(self.model)

    def set_size(self, mini_batch_size: int) -> None:
        self.loss.mini_batch_size = mini_batch_size

    def _columns(self) -> datasets.Dataset:
        """Texts and dictionaries in one column, which Arrow has no type for."""
        rows = datasets.Dataset.from_dict({"query": range(len(self.inputs)), "document": range(len(self.inputs))})

        def look_up(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            return {
                "query": [self.inputs[row][0] for row in batch["query"]],
                "document": [self.inputs[row][1] for row in batch["document"]],
            }

        rows.set_transform(look_up)
        return rows

    def embeddings(self, rows: list[int]) -> torch.Tensor:
        columns = [[self.inputs[row][side] for row in rows] for side in (0, 1)]
        return torch.cat([self.encoder.encode(column, convert_to_tensor=True) for column in columns])


def cut_mixed_columns(encoder: SentenceTransformer) -> None:
    """Lets sentence-transformers cut columns of texts and pictures into mini-batches.

    It cuts `image_num_tiles` by rows, as it knows nothing of it, and the other inputs of pictures by pictures. So the
    model is told instead, within its forward, that each picture is one tile.
    """
    preprocess = encoder[0].preprocess

    def without_tiles(*args: Any, **kwargs: Any) -> Any:
        features = preprocess(*args, **kwargs)
        features.pop("image_num_tiles", None)
        return features

    def with_tiles(module: Any, args: tuple[dict[str, Any], ...]) -> None:
        if (pixels := args[0].get("pixel_values")) is not None:
            args[0]["image_num_tiles"] = torch.ones(len(pixels), dtype=torch.long)

    encoder[0].preprocess = without_tiles
    encoder[0].register_forward_pre_hook(with_tiles)


# ------------------------------------------------------------------------------------------------------ measurements


@dataclass(frozen=True)
class Case:
    """One line of the tables."""

    workload: str
    frozen: bool
    pairs: int

    def __str__(self) -> str:
        return f"{self.workload} | {'frozen' if self.frozen else 'trained'} | {self.pairs}"


def open_sides(folder: Path, case: Case, steps: int) -> tuple[Ours, Theirs]:
    data = open_data(folder / "data", case.workload)
    ours = Ours(folder, data, case.frozen, case.pairs, steps)
    return ours, Theirs(folder, data, case.frozen, ours.batches(), steps)


def compare_results(folder: Path, case: Case) -> tuple[float, float]:
    """The largest difference of the embeddings, and the relative one of the losses, before any training."""
    ours, theirs = open_sides(folder, case, steps=1)
    rows = ours.batches()[0]
    difference = (ours.embeddings(rows) - theirs.embeddings(rows)).abs().max().item()
    ours.turn(), theirs.turn()
    return difference, abs(ours.first_loss() / theirs.first_loss() - 1)


def sweep(sides: tuple[Side, Side], sizes: Sequence[int]) -> list[dict[int, float]]:
    """Seconds a pair of each side at each mini-batch size."""
    found: list[dict[int, float]] = [{}, {}]
    for side in sides:
        side.turn()  # warms up
    for size in sizes:
        for side, seconds in zip(sides, found, strict=True):
            side.set_size(size)
            seconds[size] = sum(side.turn().values())
    return found


def alternate(sides: tuple[Side, Side], sizes: tuple[int, int], rounds: int) -> tuple[list[dict[str, float]], float]:
    """The median seconds a pair of each side by phase, and the median of the ratios of their sums."""
    turns: list[list[dict[str, float]]] = [[], []]
    for _ in range(rounds):
        for side, size, made in zip(sides, sizes, turns, strict=True):
            side.set_size(size)
            made.append(side.turn())
    ratios = [sum(theirs.values()) / sum(ours.values()) for ours, theirs in zip(*turns, strict=True)]
    medians = [{phase: statistics.median(turn[phase] for turn in made) for phase in PHASES} for made in turns]
    return medians, statistics.median(ratios)


def whole_columns(folder: Path, case: Case, ours: Ours, size: int) -> str:
    """sentence-transformers without the remedy: the error where it cuts, and its speed where it does not."""
    data = open_data(folder / "data", case.workload)
    theirs = Theirs(folder, data, case.frozen, ours.batches(), ours.trainer.args.max_steps, remedy=False)
    try:
        theirs.turn()
        error = "none"
    except (ValueError, RuntimeError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    _, ratio = alternate((ours, theirs), (size, case.pairs), rounds=2)
    return f"{case}: whole columns, which take no remedy, {ratio:.2f} x; cut without the remedy, {error}"


def peak_memory(folder: Path, case: Case, side: str, size: int) -> list[float]:
    """MiB of a process of its own: at the most, and how much of it `train()` added."""
    task = json.dumps([str(folder), case.workload, case.frozen, case.pairs, side, size])
    command = [sys.executable, __file__, "--measure", task]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def measure(folder: str, workload: str, frozen: bool, pairs: int, side: str, size: int) -> None:
    """The child process of [`peak_memory`]. The plan is made before, as both sides need it."""
    case = Case(workload, frozen, pairs)
    data = open_data(Path(folder) / "data", workload)
    chosen: Side = Ours(Path(folder), data, frozen, pairs, steps=1)
    plan = chosen.batches()
    if side == SIDES[1]:
        chosen = Theirs(Path(folder), data, case.frozen, plan, steps=1)
    chosen.set_size(size)
    gc.collect()
    before = status("VmRSS")
    chosen.turn()
    print(json.dumps([status("VmHWM"), status("VmHWM") - before]))


def status(name: str) -> float:
    """A line of this process's /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


# ------------------------------------------------------------------------------------------------------------ report


def report_speed(folder: Path, scales: dict[int, tuple[int, int]]) -> dict[tuple[str, bool], tuple[int, int]]:
    """Prints pairs a second and the split; returns the best mini-batch sizes of both sides.

    Args:
        scales: For each number of pairs: steps a turn, rounds.
    """
    print("| batch | tower | pairs | both at 32: pairs/s | ratio | each at its best size | pairs/s | ratio | goal |")
    print("|---|---|---|---|---|---|---|---|---|")
    best, splits, notes = {}, [], []
    for workload in WORKLOADS:
        for frozen in (True, False):
            for pairs, (steps, rounds) in scales.items():
                case = Case(workload, frozen, pairs)
                sides = open_sides(folder, case, steps)
                if (workload, frozen) not in best:
                    found = sweep(sides, MINI_BATCH_SIZES)  # at the smallest batch
                    best[workload, frozen] = tuple(min(one, key=one.__getitem__) for one in found)
                    notes += [
                        f"{case} | {side} | {_per_second_each(one)}" for side, one in zip(SIDES, found, strict=True)
                    ]
                sizes = best[workload, frozen]
                medians, ratio = alternate(sides, sizes, rounds)
                default = f"{_rates(medians)} | {ratio:.2f} x"
                if sizes != (DEFAULT_SIZE, DEFAULT_SIZE):
                    default = "- | -" if pairs == 1024 else _at_default(sides, rounds)
                print(
                    f"| {case} | {default} | {sizes[0]} / {sizes[1]} | {_rates(medians)} | {ratio:.2f} x "
                    f"| {GOALS[workload]} x |",
                    flush=True,
                )
                splits += [f"| {case} | {side} | {_split(one)} |" for side, one in zip(SIDES, medians, strict=True)]
                if workload == "mix" and pairs == min(scales):
                    notes.append(whole_columns(folder, case, sides[0], sizes[0]))
    print("\n| batch | tower | pairs | ms a pair | " + " | ".join((*PHASES, "sum")) + " |\n" + "|---" * 11 + "|")
    print("\n".join(splits) + "\n\n" + "\n".join(f"- {note}" for note in notes), flush=True)
    return best


def report_memory(folder: Path, sizes: Sequence[int], best: dict[tuple[str, bool], tuple[int, int]]) -> None:
    print("\n| batch | tower | pairs | size | process, MiB | ratio | added by `train()` | ratio | goal |")
    print("|---|---|---|---|---|---|---|---|---|")
    for workload in WORKLOADS:
        for pairs in sizes:
            case = Case(workload, True, pairs)
            for chosen in dict.fromkeys([(DEFAULT_SIZE, DEFAULT_SIZE), best[workload, True]]):
                found = [peak_memory(folder, case, side, size) for side, size in zip(SIDES, chosen, strict=True)]
                cells = [f"{one:.0f} / {other:.0f} | {one / other:.2f} x" for one, other in zip(*found, strict=True)]
                print(f"| {case} | {chosen[0]} / {chosen[1]} | {' | '.join(cells)} | {MEMORY_GOAL} x |", flush=True)


def _at_default(sides: tuple[Side, Side], rounds: int) -> str:
    medians, ratio = alternate(sides, (DEFAULT_SIZE, DEFAULT_SIZE), rounds)
    return f"{_rates(medians)} | {ratio:.2f} x"


def _rates(medians: Sequence[dict[str, float]]) -> str:
    return " / ".join(f"{1 / sum(one.values()):.1f}" for one in medians)


def _per_second_each(seconds: dict[int, float]) -> str:
    return ", ".join(f"size {size}: {1 / taken:.1f} pairs/s" for size, taken in seconds.items())


def _split(one: dict[str, float]) -> str:
    return " | ".join(f"{1000 * one[phase]:.1f}" for phase in PHASES) + f" | {1000 * sum(one.values()):.1f}"


STEPS_AND_ROUNDS = {  # of a turn, and turns; 1,024 pairs at the best sizes only
    64: (1, 3),
    256: (1, 2),
    1024: (1, 1),
}


def report(folder: Path, quick: bool, pairs: Sequence[int]) -> None:
    scales = {32: (1, 1), 64: (1, 1)} if quick else {count: STEPS_AND_ROUNDS[count] for count in pairs}
    rows = max(64, *scales) + 64
    save_model(folder / "model", write_data(folder / "data", rows))
    print(f"{torch.get_num_threads()} threads; {' / '.join(SIDES)} throughout\n")
    for workload in WORKLOADS:
        difference, loss = compare_results(folder, Case(workload, True, 64))
        assert difference < 1e-5 and loss < 1e-4, f"{workload}: embeddings by {difference:.1e}, loss by {loss:.1e}"
        print(f"- {workload}: embeddings differ by {difference:.0e} at the most, the loss by {loss:.0e} of it")
    print(flush=True)
    best = report_speed(folder, scales)
    report_memory(folder, [count for count in scales if count != 256], best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="batches of 32 and 64 pairs, one round: does it run?")
    parser.add_argument("--pairs", type=int, nargs="+", choices=STEPS_AND_ROUNDS, default=list(STEPS_AND_ROUNDS))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if arguments.measure:
        measure(*json.loads(arguments.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), arguments.quick, arguments.pairs)


if __name__ == "__main__":
    main()
