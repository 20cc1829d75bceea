"""Merges models into one and writes its folder: weights, processor, prompts, fingerprint and card."""

from __future__ import annotations

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llave_hf.checkpoints.initialisation import refuse_used_folder
from llave_hf.errors import UserError
from llave_hf.hub.card.model_card import write_model_card
from llave_hf.hub.fingerprint.fingerprint import make_fingerprint, save_fingerprint
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.runtime.opening import let_go, suit_processor
from llave_hf.runtime.places import check_model, find_file, hub_id
from llave_hf.runtime.progress import patient_bar, writing_bar

from .fitting import check_base, check_fit
from .methods import Magnitudes, linear, slerp, ties
from .parents import Parent, open_base_of, open_parent, own_tensors

_LARGE = 2**20  # bytes of a tensor
METHODS = ("linear", "slerp", "ties")


@dataclass(frozen=True)
class Mixture:
    """How weights are combined.

    Args:
        method: One of [`METHODS`].
        shares: Of each model, summing to 1.
        density: Of `ties`: the share of trained numbers that each model keeps.
        scale: Of `ties`: λ, by which the merged change is multiplied.
    """

    method: str
    shares: tuple[float, ...]
    density: float = 0.2
    scale: float = 1.0

    def record(self) -> dict[str, Any]:
        trimmed = {"density": self.density, "scale": self.scale} if self.method == "ties" else {}
        return {"method": self.method, **trimmed}


def merge_models(
    models: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    base: str | os.PathLike[str] | None = None,
    density: float | None = None,
    scale: float | None = None,
    dtype: str | None = None,
    thorough: bool = False,
) -> str:
    """Writes one model whose weights are those of several, combined.

    Weights are computed one after another, in float64; only the result is in memory whole.

    Args:
        models: Two or more folders or Hub ids of LLaVE models, or of adapters, which count with their bases.
        folder: Must not exist or be empty.
        method: `"linear"`, `"slerp"` (of two models) or `"ties"`.
        weights: One a model, divided by their sum; None: all the same.
        base: What `ties` measures changes from; None: the base that all adapters share.
        density, scale: See [`Mixture`]; of `ties` alone.
        dtype: Of the result's parameters; None: as the models have it, the widest where they differ.
        thorough: See [`make_fingerprint`].

    Returns:
        What was written, and which settings of the models differ.

    Raises:
        UserError: A setting is wrong, the models do not fit each other, or `folder` is in use.
    """
    target = Path(folder)
    refuse_used_folder(target)
    mixture = _mixture(len(models), method, weights, base is not None, density, scale)
    for model in [*models, *([base] if base is not None else [])]:
        check_model(model)
    with tempfile.TemporaryDirectory(dir=_existing(target), prefix=".merge-") as scratch:
        parents = [open_parent(model, Path(scratch)) for model in models]
        remarks = check_fit(parents)
        start = _base(parents, base, Path(scratch)) if method == "ties" else None
        record = _record(mixture, parents, start)
        merged = _combine(mixture, parents, start, dtype)
        _write(target, merged, parents[0])
        suit_processor(merged, str(target), keep=False)
        fingerprint = make_fingerprint(merged, parents[0].processor, thorough=thorough)
        save_fingerprint(target, {"merge": record, **fingerprint})
    write_model_card(target)
    mix = " + ".join(f"{share:.3g} * {parent.name}" for share, parent in zip(mixture.shares, parents, strict=True))
    over = f" over {start.name}" if start else ""
    return "\n".join([f"Written: {target}, {method}{over}: {mix}", *(f"- {remark}" for remark in remarks)])


def _mixture(
    count: int,
    method: str,
    weights: Sequence[float] | None,
    has_base: bool,
    density: float | None,
    scale: float | None,
) -> Mixture:
    if method not in METHODS:
        raise UserError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    if count < 2 or (method == "slerp" and count != 2):
        wanted = "two models" if method == "slerp" else "two or more models"
        raise UserError(f"{method} merges {wanted}, and {count} {'is' if count == 1 else 'are'} named.")
    chosen = [1.0] * count if weights is None else list(weights)
    if len(chosen) != count:
        raise UserError(f"{len(chosen)} weights are given for {count} models; give one for each.")
    if not all(math.isfinite(w) and w >= 0 for w in chosen) or not sum(chosen):
        raise UserError(f"the weights are {', '.join(f'{w:g}' for w in chosen)}; give 0 or more, and not 0 for all.")
    given = {"base": has_base, "density": density is not None, "scale": scale is not None}
    if method != "ties" and any(given.values()):
        named = " and ".join(name for name, there in given.items() if there)
        raise UserError(f"{named}: only the method ties uses it, and this one is {method}.")
    if density is not None and not 0 < density <= 1:
        raise UserError(f"density is {density:g}; it is the share of numbers to keep, above 0 and at most 1.")
    if scale is not None and not math.isfinite(scale):
        raise UserError(f"scale is {scale:g}; give a finite number.")
    options = {name: value for name, value in (("density", density), ("scale", scale)) if value is not None}
    return Mixture(method, tuple(w / sum(chosen) for w in chosen), **options)


def _base(parents: list[Parent], base: str | os.PathLike[str] | None, scratch: Path) -> Parent:
    if base is not None:
        found = open_parent(base, scratch)
    elif all(parent.is_adapter for parent in parents) and len({(p.home, p.commit) for p in parents}) == 1:
        found = open_base_of(parents[0])
    else:
        raise UserError("ties measures what training changed: name what the models were trained from, with --base.")
    check_base(found, parents[0])
    return found


def _combine(mixture: Mixture, parents: list[Parent], base: Parent | None, dtype: str | None) -> LlaveModel:
    """The first parent's model with the merged weights in place of its own."""
    model = parents[0].model
    places = own_tensors(model)
    parameters = {name for name, _ in model.named_parameters()}
    names = [name for name, tensor in places.items() if tensor.is_floating_point()]
    thresholds = [_threshold(mixture.density, parent, base, names) for parent in parents] if base else []
    for name in patient_bar(names, "Merging", unit="tensor"):
        tensors = [parent.tensors[name].detach() for parent in parents]
        dtypes = [getattr(torch, dtype)] if dtype and name in parameters else [p.dtypes[name] for p in parents]
        out = torch.empty(places[name].shape, dtype=functools.reduce(torch.promote_types, dtypes))
        if base:
            start = base.tensors[name].detach()
            ties(tensors, start, mixture.shares, thresholds, mixture.scale, out)
            tensors.append(start)
        else:
            (slerp if mixture.method == "slerp" else linear)(tensors, mixture.shares, out)
        places[name].data = out
        _let_go(tensors)
    return model


def _threshold(density: float, parent: Parent, base: Parent, names: list[str]) -> float:
    """Over all weights together, as in the paper; what a model keeps does not depend on their shapes."""
    magnitudes = Magnitudes(density)
    for last in (False, True):
        for name in patient_bar(names, f"Changes of {parent.name}", unit="tensor"):
            tensors = parent.tensors[name].detach(), base.tensors[name].detach()
            magnitudes.count(*tensors)
            _let_go(tensors)
        if not last:
            magnitudes.halfway()
    return magnitudes.threshold()


def _let_go(tensors: Iterable[torch.Tensor]) -> None:
    """Of what was read, so that no second model gathers in memory; small ones are not worth the search."""
    large = [tensor for tensor in tensors if tensor.nbytes >= _LARGE]
    if large:
        let_go(large)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _write(target: Path, model: LlaveModel, first: Parent) -> None:
    settings = find_file(first.home, "config_sentence_transformers.json")
    if settings is not None:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(settings, target / settings.name)
    with writing_bar(target, sum(parameter.nbytes for parameter in model.parameters()), "Writing"):
        model.save_pretrained(target)
    first.processor.save_pretrained(target)


def _record(mixture: Mixture, parents: list[Parent], base: Parent | None) -> dict[str, Any]:
    """What the fingerprint and the card say; of a folder its name, since its place means nothing elsewhere."""
    named = _tails([name for parent in [*parents, *([base] if base else [])] for name in (parent.name, parent.home)])
    models = []
    for parent, share in zip(parents, mixture.shares, strict=True):
        entry: dict[str, Any] = {"name": named[parent.name], "weight": share}
        if hub_id(parent.name):
            entry |= {"hub_id": parent.name, **({} if parent.is_adapter else {"revision": parent.commit})}
        if parent.is_adapter:
            entry["adapter_of"] = named[parent.home]
        models.append(entry)
    return {**mixture.record(), "models": models, **({"base": named[base.name]} if base else {})}


def _tails(names: list[str]) -> dict[str, str]:
    """Hub ids as they are, and as much of the ends of folders' paths as tells them apart."""
    paths = {name: Path(name).resolve().parts for name in names if not hub_id(name)}
    length = 1
    while len({parts[-length:] for parts in paths.values()}) < len(set(paths.values())):
        length += 1
    return {name: "/".join(paths[name][-length:]) if name in paths else name for name in names}
