"""Which model made a vector: its weights and settings as a digest, its dtype, the prompt it puts before inputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from llave_hf.runtime.places import MODEL_FILES, find_file
from llave_hf.runtime.version import __version__

VERSIONED_PACKAGES = ("torch", "transformers", "sentence-transformers", "pillow")
_MODEL_FILES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"})
# what training and we ourselves leave beside a model; it changes no vector
_OTHER_FILES = frozenset({"fingerprint.json", "training_args.json", "trainer_state.json", "telemetry.json"})
# what saving adds to a configuration; every weight's dtype is in the digest itself
_WRITTEN_BY_SAVING = frozenset({"_name_or_path", "architectures", "auto_map", "dtype", "transformers_version"})
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelIdentity:
    """What a result or a cached vector says of its model; None: it cannot be told.

    Attributes:
        revision: A Hub commit, or `sha256:` and a digest of the folder's files or the weights in memory.
        dtype: Of the weights.
        prompt: What the encoder puts before every input.
    """

    revision: str | None
    dtype: str | None
    prompt: str | None

    def vectors(self) -> str:
        """Everything about a model and its surroundings that changes a vector (but for rounding), as text."""
        versions = package_versions()
        return json.dumps([self.revision, self.dtype, self.prompt, versions], sort_keys=True, ensure_ascii=False)


UNKNOWN = ModelIdentity(None, None, None)


def identify(encoder: Any, revision: str | None = None) -> ModelIdentity:
    """Identifies an encoder in memory.

    Args:
        encoder: A `SentenceTransformer`, a [`LlaveEncoder`], any module or owner of a `model`, or anything else.
        revision: Where the caller knows better, from [`path_revision`]; None: the weights are hashed, about 1 s a GB.
    """
    module = encoder if isinstance(encoder, torch.nn.Module) else getattr(encoder, "model", None)
    if not isinstance(module, torch.nn.Module):
        return ModelIdentity(revision, None, None)
    prompts, name = getattr(encoder, "prompts", None), getattr(encoder, "default_prompt_name", None)
    parameter = next(module.parameters(), None)
    return ModelIdentity(
        revision=revision or weights_revision(encoder, module, sorted(module.state_dict().items())),
        dtype=None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        prompt=prompts.get(name, "") if name and prompts else "",
    )


def path_revision(model: str | os.PathLike[str], **hub: Any) -> str:
    """The digest of a model folder's files, or the commit that a Hub id stands for.

    Args:
        model: A folder or a Hub id.
        **hub: `revision`, `token`, ... that the id was opened with.

    Raises:
        OSError: There is no such folder or repository.
    """
    root = Path(model)
    if not root.is_dir():
        found = next(filter(None, (find_file(model, name, **hub) for name in MODEL_FILES)), None)
        if found is None:
            raise OSError(f"{os.fspath(model)} on the Hub holds none of {', '.join(MODEL_FILES)}.")
        # In the Hub's cache a file lies in the folder of its commit.
        return found.as_posix().rpartition("/snapshots/")[2].partition("/")[0]
    digest = hashlib.sha256()
    for path in _model_files(root):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return _shown(digest)


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that decide a vector; None: not installed."""
    return {"llave_hf": __version__, **{package: _version(package) for package in VERSIONED_PACKAGES}}


def _model_files(root: Path) -> list[Path]:
    """A model's own files, and those of its modules in sub-folders that a `modules.json` names."""
    modules = root / "modules.json"
    folders = {root}
    if modules.is_file():
        folders |= {root / module["path"] for module in json.loads(modules.read_text(encoding="utf-8"))}
    files = {file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()}
    return sorted(file for file in files if file.suffix in _MODEL_FILES and file.name not in _OTHER_FILES)


def weights_revision(encoder: Any, module: torch.nn.Module, tensors: Iterable[tuple[str, Any]]) -> str:
    """The digest of weights in memory.

    Args:
        encoder: Owner of the processor and of prompts.
        module: The model.
        tensors: Its weights by name, in the order of names.
    """
    digest = hashlib.sha256()
    for setting in _settings(encoder, module):
        digest.update(setting.encode("utf-8", "surrogatepass") + b"\0")
    for name, tensor in tensors:
        digest.update(f"{name} ".encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
        else:
            digest.update(repr(tensor).encode())
    return _shown(digest)


def _settings(encoder: Any, module: torch.nn.Module) -> Iterator[str]:
    """Configurations of the modules, of the processor and of its tokenizer."""
    for name in ("prompts", "default_prompt_name", "truncate_dim", "max_seq_length"):
        yield f"{name} {getattr(encoder, name, None)!r}"
    for name, part in module.named_modules():
        if isinstance(getattr(part, "config", None), PreTrainedConfig):
            yield f"{name} {_unsaved(part.config.to_dict())!r}"
        elif hasattr(part, "get_config_dict") and not isinstance(part, type(module)):
            yield f"{name} {part.get_config_dict()!r}"
    processor = getattr(encoder, "processor", None)
    tokenizer: Any = getattr(processor, "tokenizer", None) or getattr(encoder, "tokenizer", None)
    settings: Any
    for settings in (processor, tokenizer):
        if hasattr(settings, "to_dict"):
            yield repr(_unsaved(settings.to_dict()))
        yield repr(getattr(settings, "chat_template", None))
    if hasattr(tokenizer, "backend_tokenizer"):
        yield tokenizer.backend_tokenizer.to_str()


def _unsaved(settings: Any) -> Any:
    """Settings in the order of their names, at every depth without what saving adds to them."""
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if key not in _WRITTEN_BY_SAVING}
        return {key: _unsaved(kept[key]) for key in sorted(kept, key=str)}
    if isinstance(settings, list | tuple):
        return [_unsaved(entry) for entry in settings]
    return settings


def _shown(digest: Any) -> str:
    return f"sha256:{digest.hexdigest()[:32]}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
