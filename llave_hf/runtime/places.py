"""Places that somebody names: a model's folder or Hub id, a file to read, a folder to write. Are they there?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llave_hf.errors import UserError

# Any of them makes a folder one that transformers, sentence-transformers or PEFT opens.
MODEL_FILES = ("config.json", "modules.json", "adapter_config.json")
_HUB_ARGUMENTS = ("revision", "token", "cache_dir")
_FILE_ARGUMENTS = (*_HUB_ARGUMENTS, "subfolder", "local_files_only")


def check_model(model: Any, files: Sequence[str] = MODEL_FILES, **hub: Any) -> None:
    """Looks for a model, here or on the Hub, before it is opened; an object is taken as it is.

    Args:
        model: A folder, a Hub id, or an object.
        files: One of them must be there; the message names the first.
        **hub: `revision`, `token`, `cache_dir`; others are left to what opens the model.

    Raises:
        UserError: It is not there, the Hub cannot be asked, or it is no model.
    """
    check_model_path(model, files)
    if isinstance(model, (str, os.PathLike)) and not os.path.isdir(model):
        _check_hub(os.fspath(model), files, {name: hub[name] for name in _HUB_ARGUMENTS if hub.get(name) is not None})


def check_model_path(model: Any, files: Sequence[str] = MODEL_FILES) -> None:
    """As [`check_model`], without asking the Hub: what can be a Hub id is taken as it is.

    Raises:
        UserError: There is no such folder and no Hub id is written like that, or the folder is no model's.
    """
    if not isinstance(model, (str, os.PathLike)):
        return
    name = os.fspath(model)
    if os.path.isdir(name):
        if not any(os.path.isfile(os.path.join(name, file)) for file in files):
            raise UserError(f"{name} holds no {files[0]}, as a saved model does: check the path.")
    elif os.path.exists(name):
        raise UserError(f"{name} is a file, and a model is a folder: name the one that holds {files[0]}.")
    elif not is_hub_id(name):
        raise UserError(f"There is no model folder {name}: check the path, or give a Hub id (owner/name).")


def hub_id(source: Any) -> str | None:
    """The Hub id (`owner/name`) that a source is; None for a folder or a file here, and where nothing is named."""
    if not isinstance(source, str) or source.count("/") != 1 or source.startswith(("/", ".")) or Path(source).exists():
        return None
    return source


def find_file(model: str | os.PathLike[str], name: str, **hub: Any) -> Path | None:
    """A file of a model, whether it is named by a folder or by a Hub id, from where it is downloaded.

    Args:
        model: A folder, or a Hub id that [`check_model`] has found.
        name: Of the file, within the model.
        **hub: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`; others are not looked at.

    Returns:
        Its path; None: the model has no such file, or the Hub cannot be asked and it was not downloaded before.
    """
    options = {key: hub[key] for key in _FILE_ARGUMENTS if hub.get(key) is not None}
    if os.path.isdir(model):
        path = Path(model, options.get("subfolder", ""), name)
        return path if path.is_file() else None
    if not is_hub_id(os.fspath(model)):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(os.fspath(model), name, **options))
    except EntryNotFoundError:  # also where the Hub cannot be asked
        return None


def is_hub_id(name: Any) -> bool:
    """Whether the Hub could have a repository of this name; `../model`, `/model` and `a/b/model` are paths."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_file(path: str | os.PathLike[str], what: str) -> None:
    """Looks for a file to read.

    Args:
        what: It is, the message's first words.

    Raises:
        UserError: It is not there, or is a folder.
    """
    if not os.path.isfile(path):
        fault = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{what} {os.fspath(path)} {fault}: check the path.")


def check_folder(path: str | os.PathLike[str], what: str) -> None:
    """Looks for a folder to read.

    Raises:
        UserError: It is not there, or is a file.
    """
    if not os.path.isdir(path):
        fault = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"{what} {os.fspath(path)} {fault}: check the path.")


def check_output_folder(folder: str | os.PathLike[str], what: str) -> None:
    """See that files can be written into a folder, or that it can be made where it is missing.

    Args:
        what: It is for, the message's first words.

    Raises:
        UserError: That fails.
    """
    path = Path(folder)
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{what} {path} is no folder to write to ({error.strerror}): choose another.") from error


def check_output_file(path: str | os.PathLike[str], what: str) -> None:
    """See that a file can be written, whose folder may be missing.

    Args:
        what: It is, the message's first words.

    Raises:
        UserError: It is a folder, or its folder cannot be written to.
    """
    if os.path.isdir(path):
        raise UserError(f"{what} {os.fspath(path)} is a folder, not a file: name a file in it.")
    try:
        check_output_folder(Path(path).absolute().parent, what)
    except UserError as error:
        raise UserError(f"{what} {os.fspath(path)} cannot be written: {error}") from error


def check_possible_folder(path: str | os.PathLike[str], what: str) -> None:
    """Whether a place is a folder, or could become one, to read or to write.

    Raises:
        UserError: It is a file, or lies below one.
    """
    existing = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"{what} {os.fspath(path)} cannot be a folder ({existing} is a file): name another.")


def _check_hub(name: str, files: Sequence[str], options: dict[str, Any]) -> None:
    from huggingface_hub import constants, hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = {key: value for key, value in options.items() if key != "token"}
    if any(isinstance(try_to_load_from_cache(name, file, **cached), str) for file in files):
        return
    for file in files:
        try:
            hf_hub_download(name, file, **options)
            return
        except GatedRepoError as error:
            raise UserError(
                f"{name} on the Hub is given out on request: ask on its page, then log in with `hf auth login`."
            ) from error
        except RepositoryNotFoundError as error:
            raise UserError(
                f"There is no folder {name} here and no model {name} on the Hub, or your token may not see it: check "
                "the path or the id."
            ) from error
        except RevisionNotFoundError as error:
            raise UserError(f"{name} on the Hub has no revision {options.get('revision')!r}: name another.") from error
        except LocalEntryNotFoundError as error:
            why = "HF_HUB_OFFLINE is set" if is_offline_mode() else f"{constants.ENDPOINT} cannot be reached"
            raise UserError(
                f"There is no folder {name} here, and the Hub cannot be asked for a model of that name ({why}): check "
                "the path, or the connection."
            ) from error
        except EntryNotFoundError:
            continue
    raise UserError(f"{name} on the Hub holds no {files[0]}, as a saved model does: name another.")
