"""The order of the checks; each gives findings, and one that fails stops nothing but itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.training.engines.choice import EngineChoice
from llave_hf.training.recipe.recipe import Recipe, load_recipe

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        level: `"ok"`, `"note"` (worth knowing) or `"PROBLEM"` (the run would fail or waste its time).
        part: `settings`, `engine`, `data`, `loss`, `batches`, `teacher`, `model`, `disk`, `memory`,
            `negatives`, `exchange`, `time`.
    """

    level: str
    part: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8}{self.part:<10}{self.text}"


@dataclass(frozen=True)
class Patient:
    """What the checks look at.

    Args:
        fast: Look at a sample of the rows and files instead of all.
        tflops: Dense teraflops a second of one device, for the time of a step; None measures this machine's CPU.
        devices: How many will train.
        engine: What `accelerate launch` will be told; None: nothing is known.
    """

    recipe: Recipe
    dataset: TrainingPairs | None
    fast: bool
    tflops: float | None
    devices: int
    engine: EngineChoice | None = None


Check = Callable[[Patient], Iterator[Finding]]


def examine(
    recipe_path: str,
    overrides: Sequence[str] = (),
    *,
    fast: bool = False,
    tflops: float | None = None,
    devices: int = 1,
    accelerate_config: str | None = None,
) -> Iterator[Finding]:
    """Findings on a recipe, as they are made.

    Args:
        recipe_path, overrides: As [`load_recipe`] takes them.
        fast, tflops, devices: See [`Patient`].
        accelerate_config: The file that `accelerate launch` will get.
    """
    from .data_checks import check_data, open_data
    from .estimates import check_memory_and_time
    from .model_checks import check_model
    from .start_checks import check_batches, check_engine, check_loss, check_precision, check_teacher

    try:
        recipe = load_recipe(recipe_path, overrides)
        engine = None if accelerate_config is None else EngineChoice.of_file(accelerate_config)
    except ValueError as error:
        yield Finding(PROBLEM, "settings", str(error))
        return
    yield from check_settings(recipe)
    dataset, findings = open_data(recipe)
    yield from findings
    patient = Patient(recipe, dataset, fast, tflops, devices, engine)
    checks: list[Check] = [check_engine, check_precision, check_data, check_loss, check_batches, check_teacher]
    checks += [check_model, check_disk, check_memory_and_time]
    told: set[str] = set()
    for check in checks:
        try:
            yield from check(patient)
        except (ValueError, OSError) as error:
            if str(error) not in told:
                yield Finding(PROBLEM, check.__name__.split("_")[1], str(error))
            told.add(str(error))


def check_settings(recipe: Recipe) -> Iterator[Finding]:
    """Settings that contradict each other, or the point of the method."""
    args = recipe.training
    yield Finding(OK, "settings", f"every key of the recipe is known; output goes to {args.output_dir}")
    if args.gradient_accumulation_steps > 1:
        text = f"gradient_accumulation_steps {args.gradient_accumulation_steps} adds no negatives; raise the batch"
        yield Finding(NOTE, "settings", text)
    if args.hardness_strength > 0 and args.per_device_train_batch_size < 8:
        text = f"{args.per_device_train_batch_size} pairs a device: the weights have few negatives to choose from"
        yield Finding(NOTE, "settings", text)
    if args.hardness_mode != "in_batch_negatives" and not args.use_negatives:
        text = f"hardness_mode {args.hardness_mode} weighs rows' own negatives, but use_negatives is off"
        yield Finding(PROBLEM, "settings", text)
    if not args.gather_across_devices:
        yield Finding(NOTE, "settings", "gather_across_devices is off: other devices' documents are no negatives")
    if (Path(args.output_dir) / "config.json").exists() and not args.resume_from_checkpoint:
        yield Finding(PROBLEM, "settings", f"{args.output_dir} already holds a model; name another folder")


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Whether the checkpoints fit."""
    from .model_checks import parameter_bytes
    from .tuned_sizes import tuned_sizes

    args = patient.recipe.training
    folder = Path(args.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    weights = parameter_bytes(patient.recipe)
    kept = (args.save_total_limit or 1) + 1  # the old one is removed after the new one is written
    tuned = tuned_sizes(patient.recipe)
    # An adapter's checkpoint holds what is trained; both hold two moments of it. And the final folder.
    needed = (tuned.states if tuned.adapters else tuned.weights + tuned.states * 2 / 3) * kept + weights
    unlimited = "" if args.save_total_limit else ", and save_total_limit is not set: every checkpoint stays"
    text = f"{needed / 1e9:.1f} GB for {kept} checkpoints and the model, {free / 1e9:.1f} GB free{unlimited}"
    yield Finding(PROBLEM if needed > free else NOTE if unlimited else OK, "disk", text)
