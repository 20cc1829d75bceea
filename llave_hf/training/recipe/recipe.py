"""Recipes: one YAML file that says what to train, on what and how, with any key overridden on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.shipped_recipes import named_like

from .arguments import LlaveTrainingArguments
from .checks import check_from_scratch, check_keys, check_kinds, switch_words
from .mining import NO_STREAM
from .quantization import check_quantization

_DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class ModelArguments:
    """Which model is trained.

    Exactly one of `model` and `from_scratch` is given.
    """

    model: str | None = field(
        default=None, metadata={"help": "Hub id or folder: a LLaVE model, or a vision-language backbone."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the Hub id."})
    from_scratch: dict[str, Any] | None = field(
        default=None, metadata={"help": "vocab_size, vision_config and text_config of a model with random weights."}
    )
    processor: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of LlaveProcessor that differ from the model's own."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, flash_attention_2, ... of the language model."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code of the model's repository may run."}
    )
    dtype: str = field(
        default="auto", metadata={"help": "What weights are opened in: auto (as stored), float32 or bfloat16."}
    )
    quantization: dict[str, Any] | None = field(
        default=None, metadata={"help": "QLoRA: bits, type, double, compute_dtype of the language model."}
    )

    def __post_init__(self) -> None:
        if (self.model is None) == (self.from_scratch is None):
            raise ValueError(
                "a recipe gives either model (a Hub id or folder) or from_scratch; this one gives "
                f"{'neither' if self.model is None else 'both'}."
            )
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose {', '.join(_DTYPES)}.")
        check_keys(self.processor, _parameters(LlaveProcessor, "tokenizer", "chat_template"), "processor")
        if self.from_scratch is not None:
            check_from_scratch(
                self.from_scratch, _parameters(build_from_scratch, "texts", "processor", "seed", "pictures")
            )


@dataclass
class DataArguments:
    """Which rows are trained and evaluated on."""

    train_data: Any = field(
        default=None,
        metadata={"help": "A Hub id, folder or file, or a list of these or of mappings (path, subsets, weight, ...)."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read and check rows while training, for data larger than memory."}
    )
    media_root: str | None = field(default=None, metadata={"help": "Folder that picture paths are relative to."})
    train_subsets: list[str] | None = field(default=None, metadata={"help": "Only these subsets. None: all."})
    train_split: str = field(default="original", metadata={"help": "Split of Hub data sets."})
    max_samples_per_source: int | None = field(default=None, metadata={"help": "At most so many rows of a subset."})
    eval_benchmark: str | None = field(
        default=None, metadata={"help": "A benchmark's YAML file or name, evaluated during and after training."}
    )
    eval_data: str | None = field(default=None, metadata={"help": "Folder of the benchmark's data, if elsewhere."})
    eval_subsets: list[str] | None = field(
        default=None, metadata={"help": "Only these subsets during training. None: all; after training always all."}
    )

    def __post_init__(self) -> None:
        if self.train_data is None:
            raise ValueError("the recipe names no train_data; give a Hub id, a folder or a file in MMEB's schema.")


@dataclass
class Recipe:
    """A parsed recipe, and the mapping it came from."""

    model: ModelArguments
    data: DataArguments
    training: LlaveTrainingArguments
    raw: dict[str, Any]


_KINDS = (ModelArguments, DataArguments, LlaveTrainingArguments)


class RecipeLoader(yaml.SafeLoader):
    """YAML as people write it: `1e-5` is a number (YAML 1.1 wants `1.0e-5`), and `no` a word (`save_strategy: no`)
    until a key asks for a switch, see [`switch_words`]."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?i:true|false)$"), list("tTfF"))

_EXPONENT = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
RecipeLoader.add_implicit_resolver(*_EXPONENT)


class _RecipeDumper(yaml.SafeDumper):
    """Puts into quotes what either kind of YAML would read as no text."""


_RecipeDumper.add_implicit_resolver(*_EXPONENT)


def dump_recipe(raw: Mapping[str, Any]) -> str:
    """A recipe's mapping as YAML that [`load_recipe`] reads as the same."""
    return yaml.dump(raw, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies `--key value` overrides.

    Args:
        path: A YAML file.
        overrides: As on a command line: `--key value`, `--key=value`, `--key` alone for true, and
            `--from_scratch.vocab_size 4096` for a key inside another.

    Raises:
        ValueError: The file is missing or no mapping, a key does not exist (the nearest is suggested), or a value
            is not what the key takes.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"recipe {file} does not exist; {named_like(file)}")
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), RecipeLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {file} is no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"recipe {file} holds a {type(raw).__name__}, not a mapping of keys to values.")
    check_keys(raw, known_keys(), str(file))
    for key, value in _parse_overrides(overrides):
        _set(raw, key, value)
    hints = {name: hint for kind in _KINDS for name, hint in get_type_hints(kind).items()}
    raw = switch_words(raw, hints)
    check_kinds(raw, hints, str(file))
    model, data, training = HfArgumentParser(_KINDS).parse_dict(raw)
    check_quantization(model.quantization, training)
    if training.mine_every and data.streaming:
        raise ValueError(NO_STREAM)
    return Recipe(model, data, training, raw)


def known_keys() -> dict[str, dataclasses.Field[Any]]:
    """Every key that a recipe may hold."""
    return {f.name: f for kind in _KINDS for f in dataclasses.fields(kind) if f.init}


def _parameters(made: Any, *without: str) -> list[str]:
    return [name for name in inspect.signature(made).parameters if name not in without]


def _parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    rest = list(arguments)
    while rest:
        head = rest.pop(0)
        if not head.startswith("--"):
            raise ValueError(f"command line: {head!r} stands where a --key was expected; write --key value.")
        key, equals, text = head[2:].partition("=")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        check_keys([key.partition(".")[0]], known_keys(), "command line")
        pairs.append((key, yaml.load(text, RecipeLoader)))
    return pairs


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ValueError(f"command line: {key!r} reaches into {parent!r}, which is no mapping.")
    raw[last] = value
