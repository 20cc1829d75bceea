"""Examines a recipe: the checks in their order. Each gives findings, and one that fails stops nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llave_hf.training.engines.choice import EngineChoice
from llave_hf.training.recipe.recipe import load_recipe

from .data_checks import check_data, open_data
from .estimates import check_memory_and_time
from .findings import PROBLEM, Check, Finding, Patient
from .grade_checks import check_grades
from .model_checks import check_disk, check_model
from .settings_checks import check_settings
from .start_checks import check_batches, check_engine, check_loss, check_precision, check_teacher


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
    checks: list[Check] = [check_engine, check_precision, check_data, check_grades, check_loss, check_batches]
    checks += [check_teacher, check_model, check_disk, check_memory_and_time]
    told: set[str] = set()
    for check in checks:
        try:
            yield from check(patient)
        except (ValueError, OSError) as error:
            if str(error) not in told:
                yield Finding(PROBLEM, check.__name__.split("_")[1], str(error))
            told.add(str(error))
