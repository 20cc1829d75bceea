"""A Trainer that calls other methods than those which LlaveTrainer replaces is noticed before a run starts."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from helpers import tiny_model
from transformers import Trainer

from llave_hf.errors import UserError
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.trainer import LlaveTrainer
from llave_hf.training.trainer_calls import LOSS_SCALING, NEEDED, WANTED, check_trainer_calls

# What users call; no method of Trainer has to.
CALLED_BY_USERS = {"__init__", "evaluate", "push_to_hub"}


def later_trainer(rename: Callable[[str], str]) -> type[Trainer]:
    """Trainer as a later release might have it: with other names in its methods."""
    members = {rename(name): renamed(member, rename) for name, member in vars(Trainer).items()}
    for name in ("__dict__", "__weakref__"):
        members.pop(name, None)
    return type("Trainer", (), members)


def renamed(member: Any, rename: Callable[[str], str]) -> Any:
    function = inspect.unwrap(member) if callable(member) else member
    if not isinstance(function, FunctionType):
        return member
    return FunctionType(
        code_renamed(function.__code__, rename),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def code_renamed(code: CodeType, rename: Callable[[str], str]) -> CodeType:
    constants = tuple(code_renamed(one, rename) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_names=tuple(map(rename, code.co_names)), co_consts=constants)


def renaming(*names: str) -> Callable[[str], str]:
    return lambda name: f"{name}_of_later" if name in names else name


def test_the_installed_release_calls_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_trainer_calls(LlaveTrainer)
        check_trainer_calls(LlaveTrainer, later_trainer(renaming()))
    assert not caplog.records


def test_every_method_that_is_replaced_is_looked_for() -> None:
    classes = LlaveTrainer.__mro__[: LlaveTrainer.__mro__.index(Trainer)]
    replaced = {
        name
        for one in classes
        for name, member in vars(one).items()
        if hasattr(Trainer, name) and isinstance(member, FunctionType)
    }
    assert replaced - CALLED_BY_USERS == {*NEEDED, *WANTED}
    assert not set(NEEDED) & set(WANTED)


@pytest.mark.parametrize("name", NEEDED)
def test_a_needed_method_under_another_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"works by other steps: .*\b{name} is gone .*transformers 5\.17") as refused:
        check_trainer_calls(LlaveTrainer, later_trainer(renaming(name)))
    assert NEEDED[name] in str(refused.value)


@pytest.mark.parametrize("name", WANTED)
def test_a_wanted_method_under_another_name_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_trainer_calls(LlaveTrainer, later_trainer(renaming(name)))
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{name} is gone (LlaveTrainer's {WANTED[name]})" in line


def test_a_method_that_nobody_calls_is_refused() -> None:
    later = later_trainer(renaming("_save_rng_state"))
    later._save_rng_state = later._save_rng_state_of_later  # type: ignore[attr-defined]  # kept for old callers
    with pytest.raises(UserError, match="_save_rng_state is not called"):
        check_trainer_calls(LlaveTrainer, later)

    def save_rng_state(self: Any, output_dir: str) -> None:
        self._save_rng_state(output_dir)

    later._save_rng_state = save_rng_state  # type: ignore[method-assign]  # by nobody but itself
    with pytest.raises(UserError, match="_save_rng_state is not called"):
        check_trainer_calls(LlaveTrainer, later)


def test_another_argument_is_refused() -> None:
    later = later_trainer(renaming())

    def save_checkpoint(self: Any, model: Any, trial: Any, folder: str) -> None:
        """As a later release might have it."""

    later._save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    with pytest.raises(UserError, match="_save_checkpoint is given folder"):
        check_trainer_calls(LlaveTrainer, later)


def test_a_run_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, processor = tiny_model()
    arguments = LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    LlaveTrainer(copy.deepcopy(model), arguments, processing_class=processor)
    monkeypatch.delattr(Trainer, "_save_rng_state")
    with pytest.raises(UserError, match="_save_rng_state is gone"):
        LlaveTrainer(copy.deepcopy(model), arguments, processing_class=processor)


def test_a_loss_that_would_not_be_divided_is_refused() -> None:
    check_trainer_calls(LlaveTrainer, later_trainer(renaming(LOSS_SCALING[1])))  # as transformers 5.17
    with pytest.raises(UserError, match="gradient_accumulation_steps"):
        check_trainer_calls(LlaveTrainer, later_trainer(renaming(*LOSS_SCALING)))
