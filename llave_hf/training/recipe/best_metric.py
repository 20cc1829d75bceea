"""Settings of Trainer that ask for a metric: which one they get, and whether the benchmark gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from llave_hf.errors import UserError

if TYPE_CHECKING:
    from llave_hf.evaluation.benchmark.benchmark import Benchmark

DEFAULT_METRIC = "mean_overall"
_BY_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


def choose_metric(args: TrainingArguments, callbacks: Sequence[object] = ()) -> None:
    """Fills in `metric_for_best_model` where something asks for it; transformers would take a loss, which evaluation
    does not give. All that it gives is the higher the better.

    Raises:
        UserError: `greater_is_better` says otherwise, or no evaluation stands beside each checkpoint.
    """
    _check_best_checkpoint(args)
    if args.metric_for_best_model is None and _asks(args, callbacks):
        args.metric_for_best_model = DEFAULT_METRIC
    if args.metric_for_best_model is None:
        return
    if args.greater_is_better is False:
        raise UserError(
            "greater_is_better is False, but a higher precision is the better one: leave greater_is_better out."
        )
    args.greater_is_better = True  # transformers would take a subset's name that ends in "loss" for a loss


def aim_schedule(args: TrainingArguments) -> None:
    """Tells a schedule that follows the metric that higher is better; torch's default is the other way round.

    Raises:
        UserError: `lr_scheduler_kwargs` says otherwise.
    """
    if SchedulerType(args.lr_scheduler_type) not in _BY_METRIC:
        return
    settings = {"mode": "max", **(args.lr_scheduler_kwargs or {})}
    if settings["mode"] != "max":
        raise UserError(
            f"lr_scheduler_kwargs.mode is {settings['mode']!r}, but a higher precision is the better one: leave it "
            "out."
        )
    args.lr_scheduler_kwargs = settings


def check_metric(args: TrainingArguments, benchmark: Benchmark | None) -> None:
    """Whether evaluation is there where settings ask for it, and gives the metric that they name.

    Args:
        benchmark: What is evaluated during training.

    Raises:
        UserError: It is not; names the setting and what there is.
    """
    if benchmark is None:
        for name, asked in _wanting_evaluation(args).items():
            if asked:
                raise UserError(
                    f"{name} asks for evaluation during training, and there is no benchmark: give eval_benchmark in "
                    "a recipe, or eval_dataset to LlaveTrainer."
                )
        return
    if args.metric_for_best_model is None:
        return
    if IntervalStrategy(args.eval_strategy) is IntervalStrategy.NO:
        raise UserError(
            f"metric_for_best_model is {args.metric_for_best_model}, and eval_strategy is no, so nothing is evaluated "
            "during training: set eval_strategy, or leave it out."
        )
    names = metric_names(benchmark)
    if args.metric_for_best_model.removeprefix("eval_") not in names:
        raise UserError(
            f"metric_for_best_model is {args.metric_for_best_model!r}, which evaluation on {benchmark.name} does not "
            f"give; there are {', '.join(names)}."
        )


def metric_names(benchmark: Benchmark) -> list[str]:
    """What [`LlaveTrainer.evaluate`] gives, without its prefix: means first."""
    return [*(f"mean_{name}" for name in benchmark.groups()), *(task.name for task in benchmark.tasks)]


def told_of_checkpoints(args: TrainingArguments) -> str | None:
    """A line where the best evaluation may have no checkpoint to take back; None where each has one."""
    by_steps = SaveStrategy(args.save_strategy) is SaveStrategy.STEPS
    if not args.load_best_model_at_end or not by_steps or args.save_steps == args.eval_steps:
        return None
    return (
        f"load_best_model_at_end takes back a checkpoint, and with eval_steps {args.eval_steps:g} and save_steps "
        f"{args.save_steps:g} not every evaluation has one: set save_strategy: best, or both to the same number."
    )


def _check_best_checkpoint(args: TrainingArguments) -> None:
    saved, evaluated = SaveStrategy(args.save_strategy).value, IntervalStrategy(args.eval_strategy).value
    if args.load_best_model_at_end and saved not in (evaluated, SaveStrategy.BEST.value):
        raise UserError(
            f"load_best_model_at_end needs an evaluation beside each checkpoint, and eval_strategy is {evaluated} "
            f"while save_strategy is {saved}: set both to steps or to epoch."
        )


def _asks(args: TrainingArguments, callbacks: Sequence[object]) -> bool:
    stops = any(
        isinstance(one, EarlyStoppingCallback) or (isinstance(one, type) and issubclass(one, EarlyStoppingCallback))
        for one in callbacks
    )
    by_metric = SchedulerType(args.lr_scheduler_type) in _BY_METRIC
    return stops or by_metric or args.load_best_model_at_end or SaveStrategy(args.save_strategy) is SaveStrategy.BEST


def _wanting_evaluation(args: TrainingArguments) -> dict[str, bool]:
    return {
        "load_best_model_at_end": args.load_best_model_at_end,
        "metric_for_best_model": args.metric_for_best_model is not None,
        "eval_strategy": IntervalStrategy(args.eval_strategy) is not IntervalStrategy.NO,
        "eval_on_start": args.eval_on_start,
    }
