"""What autograd keeps of a forward: bytes a token and a patch, from the configuration and the precision.

Counted with `torch.autograd.graph.saved_tensors_hooks` on transformers' decoders and towers. Of a decoder layer it
keeps what two norms take and give, queries, keys, values and what attention gives, and four numbers for each of the
MLP's inside. That is 1.4, 2.9 and 6.3 MB a token for the 0.5B, 2B and 7B models with weights in bfloat16, and 1.6, 3.3
and 7.3 MB under autocast, whose norms and sums stay float32. Qwen3.5's linear attention keeps more, as its kernels
have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.tuning import STACKS, frozen_parts
from llave_hf.training.tuning.parts import part_modules

GATED = 4  # of a MLP's inside: the gate before and after its function, what it lets through, and the product


class Activations(NamedTuple):
    """Of a token in the language model, and of a patch in the vision tower."""

    token: float
    patch: float


class _Precision(NamedTuple):
    """Bytes that a layer keeps: of a number of its products, and of each of the hidden state's numbers."""

    number: int
    norms: int  # of a decoder layer's two norms
    query_norm: int  # of Qwen3's norms of queries and keys
    tower_norms: int


_FLOAT32 = _Precision(4, 24, 8, 16)
_BFLOAT16 = _Precision(2, 16, 6, 8)  # norms go through float32
_AUTOCAST = _Precision(2, 26, 6, 16)  # of float32 weights: what layers add to stays float32


class _Stack(NamedTuple):
    """Of equal layers; `inner_copies` is how many numbers are kept for each of the MLP's inside."""

    depth: int
    width: int
    inner: float
    inner_copies: int
    queries: int
    key_share: float = 1.0  # the width of keys by that of queries
    normed: bool = False  # queries and keys


def activation_bytes(config: LlaveConfig, args: LlaveTrainingArguments) -> Activations:
    """Of a model that is trained so; nothing for the patches of a frozen tower, of which no layer is kept."""
    frozen = frozen_parts(args.freeze, args.lora)
    text, precision = _text_stack(config), _precision(args, trained="language_model" not in frozen)
    attention = text.queries * (2 + 2 * text.key_share) * precision.number
    attention += text.queries * (1 + text.key_share) * precision.query_norm * text.normed
    layer = precision.norms * text.width + attention + text.inner_copies * text.inner * precision.number
    token = _of_stack(text, layer, precision, checkpointed=is_checkpointed(args, "language_model"))
    if "vision_tower" in frozen:
        return Activations(token, 0.0)
    vision, precision = _vision_stack(config), _precision(args, trained=True)
    layer = (precision.tower_norms + 4 * precision.number) * vision.width
    layer += vision.inner_copies * vision.inner * precision.number
    return Activations(token, _of_stack(vision, layer, precision, checkpointed=is_checkpointed(args, "vision_tower")))


def cast_bytes(model: LlaveModel, args: LlaveTrainingArguments, parts: Iterable[str] = STACKS) -> int:
    """Of the 16-bit copies that autocast makes of the float32 weights of these parts: those that are trained.

    A forward has them all; a graph holds those of layers that are not checkpointed. Frozen weights are in 16 bits
    already, and weights of lookups and norms are not copied.
    """
    if _precision(args, trained=True) is not _AUTOCAST:
        return 0
    trained = set(parts) - frozen_parts(args.freeze, args.lora)
    modules = (module for part in trained for module in part_modules(model, part).values())
    return sum(2 * module.weight.numel() for module in modules if isinstance(module, nn.Linear))


def keeping_parts(args: LlaveTrainingArguments) -> list[str]:
    """The parts whose layers keep what they compute, and so autocast's copies of their weights."""
    return [part for part in STACKS if not is_checkpointed(args, part)]


def is_checkpointed(args: LlaveTrainingArguments, part: str) -> bool:
    """Whether the layers of a part keep their inputs alone."""
    return bool(args.gradient_checkpointing) and (args.checkpoint_parts is None or part in args.checkpoint_parts)


def weights_of(config: LlaveConfig) -> Activations:
    """Weights that a token, and a patch, is multiplied with: the work of a forward."""
    return Activations(
        *(
            stack.depth * stack.width * (2 * stack.queries * (1 + stack.key_share) + matrices * stack.inner)
            for stack, matrices in ((_text_stack(config), 3), (_vision_stack(config), 2))
        )
    )


def _precision(args: LlaveTrainingArguments, *, trained: bool) -> _Precision:
    if not (args.bf16 or args.fp16):
        return _FLOAT32
    # Frozen weights, also beneath adapters, stay as they were opened: in 16 bits as a rule.
    return _AUTOCAST if trained and not args.lora and args.master_weights != "bfloat16" else _BFLOAT16


def _of_stack(stack: _Stack, layer: float, precision: _Precision, *, checkpointed: bool) -> float:
    """Checkpointed: the inputs of all layers, and one layer at a time."""
    inputs = stack.depth * stack.width * (4 if precision is _AUTOCAST else precision.number)
    return inputs + layer if checkpointed else stack.depth * layer


def _text_stack(config: LlaveConfig) -> _Stack:
    text = config.get_text_config()
    heads = text.num_attention_heads
    queries = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    normed = text.model_type.startswith("qwen3")
    share = text.num_key_value_heads / heads
    return _Stack(text.num_hidden_layers, text.hidden_size, text.intermediate_size, GATED, queries, share, normed)


def _vision_stack(config: LlaveConfig) -> _Stack:
    vision = config.backbone_config.vision_config
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    width = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's hidden_size is what it gives
    inner = getattr(vision, "intermediate_size", None) or width * vision.mlp_ratio
    copies = {"silu": GATED, "quick_gelu": 3}.get(vision.hidden_act, 2)
    return _Stack(depth, width, inner, copies, width)
