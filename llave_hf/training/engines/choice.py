"""The engine that `accelerate launch` was told to use, and a refusal, at the start, of settings that it cannot do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from llave_hf.errors import UserError
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

from .engines import zero_settings

FSDP, DEEPSPEED = "FSDP", "DeepSpeed"


@dataclass(frozen=True)
class EngineChoice:
    """What `accelerate launch` was told.

    Attributes:
        engine: `"FSDP"`, `"DeepSpeed"`, or None: DDP or one process.
        fsdp_version: 2, or torch's older one.
        fsdp_offload_params: Whether FSDP's shares lie on the CPU.
        zero_stage: Of DeepSpeed.
        zero3_save_16bit_model: Whether ZeRO-3 gathers the whole model to save it.
    """

    engine: str | None = None
    fsdp_version: int = 1
    fsdp_offload_params: bool = False
    zero_stage: int = 2
    zero3_save_16bit_model: bool = True

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> EngineChoice:
        """What `accelerate launch` told this process."""
        if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            return _with_fields(FSDP, {name.lower(): value for name, value in environment.items()})
        if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
            prefix = "ACCELERATE_DEEPSPEED_"
            return _with_fields(
                DEEPSPEED,
                {n.removeprefix(prefix).lower(): v for n, v in environment.items() if n.startswith(prefix)},
                config_file=environment.get(f"{prefix}CONFIG_FILE"),
            )
        return cls()

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> EngineChoice:
        """What a configuration of accelerate will tell each process.

        Raises:
            UserError: It cannot be read.
        """
        try:
            told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"accelerate's configuration {path} cannot be read: {error}") from error
        if not isinstance(told, dict):
            raise UserError(f"accelerate's configuration {path} is no mapping; see recipes/accelerate.")
        if told.get("distributed_type") == "FSDP":
            return _with_fields(FSDP, told.get("fsdp_config") or {})
        if told.get("distributed_type") == "DEEPSPEED":
            zero = told.get("deepspeed_config") or {}
            return _with_fields(DEEPSPEED, zero, config_file=zero.get("deepspeed_config_file"))
        return cls()

    @property
    def name(self) -> str:
        """For people."""
        if self.engine == DEEPSPEED:
            return f"DeepSpeed ZeRO-{self.zero_stage}"
        return f"FSDP{self.fsdp_version}" if self.engine == FSDP else "DDP"

    def refusals(
        self, args: LlaveTrainingArguments, quantization: Mapping[str, Any] | None, *, on_cpu: bool
    ) -> Iterator[str]:
        """Why the engine cannot do what a recipe asks for, and what to do; nothing where it can.

        Args:
            args: Of the recipe.
            quantization: The recipe's.
            on_cpu: Whether ranks have no accelerator.
        """
        if self.engine is None:
            return
        for asked, key, why in (
            (args.muon_learning_rate is not None, "muon_learning_rate", "needs whole matrices on every rank"),
            (args.learn_temperature, "learn_temperature", "needs an optimizer for numbers that are not the model's"),
            (args.mine_every > 0, "mine_every", "encodes with a whole model on every rank"),
            (quantization is not None, "quantization", "has 4-bit weights, which no rank can hold a share of"),
        ):
            if asked:
                yield f"{key} {why}, which {self.name} does not give; leave it out, or train with DDP."
        yield from self._of_fsdp(args, on_cpu) if self.engine == FSDP else self._of_deepspeed(args)

    def _of_fsdp(self, args: LlaveTrainingArguments, on_cpu: bool) -> Iterator[str]:
        if self.fsdp_version != 2:
            yield "torch's older FSDP is not supported; set fsdp_version: 2, as recipes/accelerate/fsdp2.yaml does."
        if self.fsdp_offload_params and on_cpu:
            yield "fsdp_offload_params pins memory for a GPU, and there is none; leave it out."
        if args.optim == "sgd" and (args.save_strategy != "no" or args.resume_from_checkpoint):
            yield (
                "optim sgd has no state, and torch cannot go on with such an optimizer under FSDP, so checkpoints "
                "would be of no use; choose another, or set save_strategy: 'no'."
            )

    def _of_deepspeed(self, args: LlaveTrainingArguments) -> Iterator[str]:
        if args.hardness_source == "ema":
            yield (
                "hardness_source ema averages float32 weights; under DeepSpeed a rank has a share of them, or a copy "
                "in another precision; use FSDP2 or DDP, or another hardness_source."
            )
        if args.master_weights != "float32":
            yield "master_weights has no effect under DeepSpeed, which holds float32 copies; leave it out."
        if self.zero_stage == 3 and not self.zero3_save_16bit_model:
            yield "ZeRO-3 would end without a model; set zero3_save_16bit_model: true."


def refuse_impossible(args: LlaveTrainingArguments, quantization: Mapping[str, Any] | None = None) -> None:
    """Stops a run that its engine cannot do.

    Raises:
        UserError: Says what and why.
    """
    choice = EngineChoice.of_environment()
    for text in choice.refusals(args, quantization, on_cpu=args.device.type == "cpu"):
        raise UserError(text)


def _with_fields(engine: str, told: Mapping[str, Any], config_file: str | None = None) -> EngineChoice:
    given: dict[str, Any] = {}
    for field in fields(EngineChoice):
        if field.name in told:
            value = str(told[field.name]).lower()
            given[field.name] = value in ("true", "1") if field.type == "bool" else int(value)
    if config_file not in (None, "", "none", "None"):
        given |= _of_deepspeed_file(str(config_file))
    return EngineChoice(engine, **given)


def _of_deepspeed_file(path: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"DeepSpeed's configuration {path} cannot be read: {error}") from error
    gathers = config.get("zero_optimization", {}).get("stage3_gather_16bit_weights_on_model_save", False)
    return {"zero_stage": zero_settings(config).stage, "zero3_save_16bit_model": bool(gathers)}
