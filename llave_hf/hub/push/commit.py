"""One commit to a repository on the Hub, or nothing: what a failed one had made is removed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError

from llave_hf.errors import UserError

from .remote import TIMEOUT, Target, explain, look


@dataclass
class _Made:
    """What a call has made so far, and the commit that its own is to follow."""

    head: str | None
    repository: bool = False
    branch: bool = False


def commit(
    api: HfApi,
    target: Target,
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    message: str,
    *,
    private: bool | None,
) -> CommitInfo:
    """Makes what is missing of repository and branch, and writes one commit.

    Args:
        api: With a token that may write.
        target: What was found; the commit fails if the branch has moved on since.
        operations: All files.
        message: The commit's.
        private: Of a repository that has to be made; None: as its owner's settings say.

    Raises:
        UserError: It failed; a repository or branch that this call had made is gone again, and the message says how
            things stand.
    """
    made = _Made(target.head)
    try:
        if target.head is None:
            api.create_repo(target.repo_id, private=private)
            made.repository = True
            made.head = api.model_info(target.repo_id, timeout=TIMEOUT).sha
        if target.is_new_branch:
            api.create_branch(target.repo_id, branch=target.revision, revision=made.head)
            made.branch = True
        return api.create_commit(
            target.repo_id, operations, commit_message=message, revision=target.revision, parent_commit=made.head
        )
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{explain(error, target.repo_id)} {_undo(api, target, made)}") from error
    except KeyboardInterrupt:
        _undo(api, target, made)
        raise


def _undo(api: HfApi, before: Target, made: _Made) -> str:
    """Removes what was made, unless something was written there; says how things stand."""
    name = before.repo_id
    try:
        now = look(api, name, before.revision)
        if made.repository and not now.files:
            api.delete_repo(name)
            return f"The repository {name}, which this push had made, was removed again."
        if made.branch and not made.repository and now.head == made.head:
            api.delete_branch(name, branch=before.revision)
            return f"The branch {before.revision}, which this push had made, was removed again."
    except (HTTPError, OSError):
        return f"How {name} stands now could not be seen: look at {api.endpoint}/{name} before you push again."
    if now.head is None:
        return "Nothing was written."
    if (now.head, now.is_new_branch) == (before.head, before.is_new_branch):
        return f"{name} is as it was."
    return f"{name} has changed meanwhile (commit {now.head}): look at it before you push again."
