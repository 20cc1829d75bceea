"""A model repository on the Hub: what it holds, and whether it is ours to update."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status

from llave_hf.errors import UserError
from llave_hf.hub.card.model_card import MARKER

TIMEOUT = 10  # seconds for the first answer
_GIT_FILES = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Target:
    """A branch as a push finds it.

    Attributes:
        head: Its last commit; None where the repository does not exist.
        files: What it holds, git's own files apart.
        private: Whether the repository is; None where it does not exist.
        is_new_branch: Whether the branch has to be made; `head` and `files` are then the default branch's.
    """

    repo_id: str
    revision: str
    head: str | None = None
    files: tuple[str, ...] = ()
    private: bool | None = None
    is_new_branch: bool = False


def connect(token: str | None) -> HfApi:
    """The Hub's interface with a token from the usual places.

    Raises:
        UserError: Offline mode is on, or there is no token.
    """
    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be published; unset it and push again.")
    found = token or get_token()
    if not found:
        raise UserError(
            "there is no token for the Hub; log in with `hf auth login`, or set HF_TOKEN to a token with write access."
        )
    return HfApi(token=found)


def look(api: HfApi, repo_id: str, revision: str) -> Target:
    """What a repository's branch holds now."""
    try:
        info = api.model_info(repo_id, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        return Target(repo_id, revision, is_new_branch=revision != constants.DEFAULT_REVISION)
    is_new_branch = False
    if revision != constants.DEFAULT_REVISION:
        try:
            info = api.model_info(repo_id, revision=revision, timeout=TIMEOUT)
        except RevisionNotFoundError:
            is_new_branch = True
    files = [file.rfilename for file in info.siblings or ()]
    kept = tuple(sorted(name for name in files if name not in _GIT_FILES))
    return Target(repo_id, revision, info.sha, kept, bool(info.private), is_new_branch)


def why_foreign(api: HfApi, target: Target, config: dict[str, Any]) -> str | None:
    """Why a branch is not an earlier state of the model with this `config.json`; None where it is, or is empty."""
    if not target.files:
        return None
    if "config.json" not in target.files:
        return "it holds files, and none is a model's config.json"
    theirs = json.loads(_fetch(api, target, "config.json"))
    kind = theirs.get("model_type")
    if kind != "llave":
        return f"its model is a {kind!r}"
    if "fingerprint.json" not in target.files and MARKER not in (
        _fetch(api, target, "README.md") if "README.md" in target.files else ""
    ):
        return "llave_hf has not written it: it has neither fingerprint.json nor a card of llave_hf"
    if _shape(theirs) != _shape(config):
        return f"it holds a model of another shape ({_shape(theirs)}, and not {_shape(config)})"
    return None


def _shape(config: dict[str, Any]) -> str:
    """What training does not change of a model: its backbone, depth and width."""
    backbone = config.get("backbone_config", {})
    text = backbone.get("text_config") or backbone
    return f"{backbone.get('model_type')} {text.get('num_hidden_layers')} x {text.get('hidden_size')}"


def _fetch(api: HfApi, target: Target, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(target.repo_id, name, revision=target.head, local_dir=folder)
        return Path(path).read_text(encoding="utf-8")


def validate_card(text: str) -> None:
    """Asks the Hub whether it accepts a card's metadata.

    `ModelCard.validate` of huggingface_hub 1 asks huggingface.co, whatever `HF_ENDPOINT` says; a company's own Hub may
    be all that this machine reaches.

    Raises:
        ValueError: What the Hub finds wrong.
    """
    body = {"repoType": "model", "content": text}
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers={"Accept": "text/plain"}
    )
    if response.status_code == 400:
        raise ValueError(response.text)
    hf_raise_for_status(response)


def explain(error: Exception, repo_id: str) -> str:
    """What an error of the Hub means, in a sentence."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of a thread that uploads
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    said = (error.server_message or "") if isinstance(error, HfHubHTTPError) else ""
    owner = repo_id.split("/")[0]
    meanings = {
        401: "the Hub does not accept the token; log in again with `hf auth login`.",
        403: f"the token may not write to {owner}; use one with write access there.",
        404: f"{repo_id} is not there, or the token may not see it.",
        409: f"the Hub refuses because of something that is there already ({said or 'conflict'}).",
        412: f"somebody has committed to {repo_id} since this push looked at it; look at that, then push again.",
        413: "the Hub finds the files too large.",
        429: "the Hub asks to wait (too many requests); push again later.",
    }
    if status in meanings:
        return meanings[status]
    if status is not None and status >= 500:
        return f"the Hub answers with an error of its own ({status}); push again later."
    if status is not None or isinstance(error, ValueError):
        return f"the Hub refuses: {' '.join(str(said or error).split())}"
    return f"the Hub at {constants.ENDPOINT} cannot be reached ({error or type(error).__name__})."
