"""Makes LLaVE's classes known to transformers' Auto classes, whichever of the two packages is imported first.

Hooks wait for the modules of transformers that hold the Auto classes' tables. What they write there are stand-ins,
which import our class when it is first used: a hook runs while transformers is half imported, and must neither pull in
what is not there yet nor make its import slower. Once our module has been imported, the class itself takes the place.
"""

from __future__ import annotations

import importlib
from functools import partial
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from wrapt import LazyObjectProxy, when_imported

_AUTO = "transformers.models.auto"
# model_type: where its configuration, its model and its processor are
_CLASSES = {
    "llave": (
        "llave_hf.model.configuration_llave:LlaveConfig",
        "llave_hf.model.modeling_llave:LlaveModel",
        "llave_hf.model.processing_llave:LlaveProcessor",
    ),
    "llava_qwen": (
        "llave_hf.checkpoints.llava_qwen.configuration:LlavaQwenConfig",
        "llave_hf.checkpoints.llava_qwen.modeling:LlavaQwenModel",
        "llave_hf.checkpoints.llava_qwen.processing:LlavaQwenProcessor",
    ),
}


class _StandIn(LazyObjectProxy):
    """A class that is imported when it is first used; pickles as that class."""

    def __init__(self, place: str) -> None:
        super().__init__(partial(resolve_name, place))
        self._self_place = place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return resolve_name, (self._self_place,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def register_when_imported() -> None:
    """Registers the classes as soon as transformers' tables are there: at once, if they are."""
    when_imported(f"{_AUTO}.configuration_auto")(_stand_in_for_configurations)
    when_imported(f"{_AUTO}.modeling_auto")(_stand_in_for_models)
    when_imported(f"{_AUTO}.processing_auto")(_stand_in_for_processors)
    for model_type, (configuration, model, processor) in _CLASSES.items():
        when_imported(_module(configuration))(partial(_register_configuration, model_type, configuration))
        when_imported(_module(model))(partial(_register_model, configuration, model))
        when_imported(_module(processor))(partial(_register_processor, configuration, processor))


def _stand_in_for_configurations(module: ModuleType) -> None:
    for model_type, (configuration, _, _) in _CLASSES.items():
        # not AutoConfig.register, which would import the class to look at it
        _whole(module).CONFIG_MAPPING.register(model_type, _StandIn(configuration), exist_ok=True)


def _stand_in_for_models(module: ModuleType) -> None:
    for configuration, model, _ in _CLASSES.values():
        # The keys are the classes themselves. Importing them needs no more of transformers than is there by now.
        _whole(module).MODEL_MAPPING.register(resolve_name(configuration), _StandIn(model), exist_ok=True)


def _stand_in_for_processors(module: ModuleType) -> None:
    for configuration, _, processor in _CLASSES.values():
        _whole(module).AutoProcessor.register(resolve_name(configuration), _StandIn(processor), exist_ok=True)


def _register_configuration(model_type: str, configuration: str, _: ModuleType) -> None:
    from transformers import AutoConfig

    AutoConfig.register(model_type, _for_saving(configuration), exist_ok=True)


def _register_model(configuration: str, model: str, _: ModuleType) -> None:
    from transformers import AutoModel

    AutoModel.register(resolve_name(configuration), _for_saving(model, "AutoModel"), exist_ok=True)


def _register_processor(configuration: str, processor: str, _: ModuleType) -> None:
    from transformers import AutoProcessor

    AutoProcessor.register(resolve_name(configuration), _for_saving(processor, "AutoProcessor"), exist_ok=True)


def _for_saving(place: str, *auto_class: str) -> Any:
    """The class, whose file goes into saved folders for `trust_remote_code=True` where llave_hf is not installed."""
    found = resolve_name(place)
    if _module(place).endswith("_llave"):
        found.register_for_auto_class(*auto_class)
    return found


def _whole(module: ModuleType) -> ModuleType:
    """The module after its import, which another thread may still be at when the hook is set."""
    return importlib.import_module(module.__name__)


def _module(place: str) -> str:
    return place.partition(":")[0]
