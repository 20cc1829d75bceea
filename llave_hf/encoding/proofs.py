"""Speed-ups that prove themselves: each is tried against the plain forward before it is used.

What leaves work out of a forward rests on how a backbone's modules call each other, which the next release of
transformers may change. So the first inputs of each kind are run both ways, once per process and model. Where the two
differ, or the shorter way raises, the plain forward serves from then on, and one line says so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from weakref import WeakKeyDictionary, ref

import torch
import transformers
from torch import nn

Results = Sequence[torch.Tensor]  # what is compared, tensor by tensor

TESTED_TRANSFORMERS = "5.17, 5.23 and 5.24"  # releases on which every shortcut was seen to hold for every backbone

# Two ways to sum the same numbers; a wrong position or a token left out is further off by orders of magnitude.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_TOLERANCE_OF_HALVES = 0.1  # bfloat16 and float16, also by autocast: two right ways are up to 0.04 apart
_NEGLIGIBLE = 1e-3  # of the largest norm: a smaller tensor is compared on that scale

logger = logging.getLogger(__name__)


class Proofs:
    """What has been tried with one model in this process."""

    def __init__(self, model: nn.Module) -> None:
        self._model = ref(model)
        self._name = _name_of(model)
        self._reasons: dict[tuple[str, Hashable], str] = {}  # why not; empty where it holds
        self._told: set[str] = set()
        self._lock = threading.RLock()

    @staticmethod
    def of(model: nn.Module) -> Proofs:
        """Those of a model, the same for every caller."""
        with _MAKING:
            return _PROOFS.setdefault(model, Proofs(model))

    def known(self, shortcut: str, kind: Hashable) -> bool:
        """Whether it has been tried."""
        return (shortcut, kind) in self._reasons

    def holds(self, shortcut: str, kind: Hashable, plain: Callable[[], Results], short: Callable[[], Results]) -> bool:
        """Whether a shortcut gives what the plain way gives; tried at the first call for this kind of input.

        Args:
            shortcut: In words, as the line that a user reads has it.
            kind: Of the inputs: what holds for texts need not hold for pictures.
            plain: Without the shortcut. An error here is the input's or the model's own, and is raised. Where its
                results are not finite, they prove nothing: the shortcut is not used this time, and tried again.
            short: The same inputs with it; any error means that the shortcut does not suit this model.
        """
        key = (shortcut, kind)
        with self._lock:  # another thread waits for the answer rather than trying too
            if key not in self._reasons:
                expected = plain()
                if not all(bool(tensor.isfinite().all()) for tensor in expected):
                    return False  # says nothing; the next inputs may
                try:
                    reason = difference(expected, short(), self._tolerance())
                except Exception as error:  # whatever modules that changed may raise; it is told below
                    reason = f"it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                self._reasons[key] = reason
                if reason:
                    self.leave_out(shortcut, reason)
            return not self._reasons[key]

    def leave_out(self, shortcut: str, reason: str) -> None:
        """Says once why a shortcut does not serve this model."""
        with self._lock:
            if shortcut in self._told:
                return
            self._told.add(shortcut)
        logger.warning(
            "%s is left out for %s with transformers %s: %s. Vectors and gradients are right, but take longer. It was "
            "tested with transformers %s.",
            shortcut,
            self._name,
            transformers.__version__,
            reason,
            TESTED_TRANSFORMERS,
        )

    def _tolerance(self) -> float:
        model = self._model()
        return _TOLERANCES[torch.float32] if model is None else tolerance(model)


def difference(expected: Results, found: Results, allowed: float) -> str:
    """What is wrong with `found`, in words; empty where nothing is.

    Tensors are compared by the norm of their difference, relative to their own norm.
    """
    if len(expected) != len(found):
        return f"it gives {len(found)} results for {len(expected)}"
    pairs = list(zip(expected, found, strict=True))
    shapes = [(tuple(one.shape), tuple(other.shape)) for one, other in pairs if one.shape != other.shape]
    if shapes:
        return f"its results have the shape {shapes[0][1]}, not {shapes[0][0]}"
    scale = max((_norm(one) for one in expected), default=0.0)
    far = max((_norm(one - other) / max(_norm(one), _NEGLIGIBLE * scale, 1e-30) for one, other in pairs), default=0.0)
    # Written so that a difference that is no number counts as one.
    return "" if far <= allowed else f"its results differ by {far:.1g} of their norm"


def tolerance(model: nn.Module) -> float:
    """How far two right ways may be apart, by what the model computes in."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    autocasts = any(torch.is_autocast_enabled(kind) for kind in {parameter.device.type for parameter in parameters})
    dtypes = {parameter.dtype for parameter in parameters}
    if autocasts or not dtypes <= set(_TOLERANCES):
        return _TOLERANCE_OF_HALVES
    return max((_TOLERANCES[dtype] for dtype in dtypes), default=_TOLERANCES[torch.float32])


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))))


def _name_of(model: nn.Module) -> str:
    return type(getattr(getattr(model, "backbone", model), "language_model", model)).__name__


_PROOFS: WeakKeyDictionary[nn.Module, Proofs] = WeakKeyDictionary()
_MAKING = threading.Lock()
