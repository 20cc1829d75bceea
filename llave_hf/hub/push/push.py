"""`llave push`: a model folder to the Hub, checked before anything is sent, in one commit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.verify import verify

from .checks import problems
from .commit import commit
from .publication import Publication, collect, is_published
from .remote import Target, connect, explain, look, validate_card, why_foreign


@dataclass(frozen=True)
class PushOptions:
    """How a folder is published.

    Attributes:
        private: Whether a repository that has to be made is private; None: as its owner's settings say.
        revision: The branch, made where it is missing.
        message: The commit's.
        overwrite: Also write to a repository that holds something else than an earlier state of this model.
        token: None takes that of `hf auth login` or HF_TOKEN.
        device: Where the fingerprint is recomputed.
    """

    private: bool | None = None
    revision: str = constants.DEFAULT_REVISION
    message: str = "Upload a LLaVE model with llave push"
    overwrite: bool = False
    token: str | None = None
    device: str = "cpu"


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    options: PushOptions | None = None,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> CommitInfo | None:
    """Publishes a model folder: model, processor, card, plots, fingerprint and results, in one commit.

    Args:
        folder: A model folder whose `fingerprint.json` agrees.
        repo_id: `owner/name`.
        options: Defaults where None.
        dry_run: Check and list only; nothing is asked of the Hub.
        report: Gets lines for people.

    Returns:
        The commit; None for a dry run.

    Raises:
        UserError: The folder must not be published as it is, the repository holds something else, or the Hub cannot
            be reached or refuses. Nothing was written, or the message says what.
    """
    options = options or PushOptions()
    root = Path(folder)
    publication = check_folder(root, repo_id)
    if dry_run:
        check_fingerprint(root, options.device, report)
        report("\n".join([*listing(publication, repo_id), "Dry run: nothing was sent."]))
        return None
    api = connect(options.token)
    try:
        target = look(api, repo_id, options.revision)
        validate_card(publication.text("README.md"))
        foreign = why_foreign(api, target, json.loads(publication.read("config.json")))
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(f"{explain(error, repo_id)} Nothing was written.") from error
    removed = stale_files(target, publication)
    _refuse(target, publication, removed, options, foreign)
    check_fingerprint(root, options.device, report)
    report("\n".join(listing(publication, repo_id, removed)))
    return _send(api, target, publication, removed, options, report)


def check_folder(root: Path, repo_id: str) -> Publication:
    """What of a folder is published.

    Raises:
        UserError: `repo_id` is none, or something in the folder is wrong; the message lists all of it.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no name of a repository: {error}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is no name of a repository: give owner/name.")
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the folder of a trained, converted or merged model.")
    publication = collect(root, repo_id)
    found = problems(publication)
    if found:
        lines = "\n".join(f"  - {problem}" for problem in found)
        raise UserError(f"{root} cannot be published:\n{lines}\nNothing was sent.")
    return publication


def check_fingerprint(root: Path, device: str, report: Callable[[str], None]) -> None:
    """Recomputes the fingerprint.

    Raises:
        UserError: There is none, or the model gives other vectors.
    """
    report(f"Recomputing {root}/fingerprint.json …")
    verdict = verify(root, device=device)
    if verdict.difference is not None:
        lines = "\n".join(f"  {line}" for line in verdict.lines)
        raise UserError(
            f"{root} does not give the vectors of its fingerprint.json, so it was not published:\n{lines}\n"
            "Mend the model; or, if it is the fingerprint that is out of date, write a new one: "
            "llave_hf.hub.fingerprint.write_fingerprint(folder)."
        )
    report(verdict.lines[-1])


def stale_files(target: Target, publication: Publication) -> list[str]:
    """Files of the repository that an earlier push wrote and this one does not: old shards would be loaded."""
    return [name for name in target.files if is_published(name) and name not in publication.contents]


def listing(publication: Publication, repo_id: str, removed: list[str] | None = None) -> list[str]:
    """What is sent, with sizes, and what is not."""
    sizes = {name: publication.size(name) for name in publication.contents}
    lines = [f"{repo_id}: {len(sizes)} files, {_readable(sum(sizes.values()))}"]
    lines += [f"  {_readable(size):>9}  {name}" for name, size in sizes.items()]
    lines += [f"  {'removed':>9}  {name}" for name in removed or []]
    if publication.shortened:
        lines.append("Published without the folders of this machine: " + ", ".join(publication.shortened))
    if publication.left_out:
        lines.append("Not published: " + ", ".join(publication.left_out))
    if not ModelCard(publication.text("README.md")).data.to_dict().get("license"):
        lines.append("The card names no licence: `llave card MODEL --license ID` adds one.")
    return lines


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _refuse(
    target: Target, publication: Publication, removed: list[str], options: PushOptions, foreign: str | None
) -> None:
    if options.private and target.private is False:
        raise UserError(
            f"{target.repo_id} exists and is public, and --private is for a new repository; make it private on its "
            "settings page, or leave --private out. Nothing was written."
        )
    if foreign is None or options.overwrite:
        return
    replaced = [name for name in target.files if name in publication.contents]
    raise UserError(
        f"{target.repo_id} is not an earlier state of this model: {foreign}. Push to another name; or, to write there "
        f"all the same, --overwrite, which replaces {', '.join(replaced) or 'no file'}, removes "
        f"{', '.join(removed) or 'none'}, and keeps what else is there. Nothing was written."
    )


def _send(
    api: HfApi,
    target: Target,
    publication: Publication,
    removed: list[str],
    options: PushOptions,
    report: Callable[[str], None],
) -> CommitInfo:
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content) for name, content in publication.contents.items()
    ]
    operations += [CommitOperationDelete(name) for name in removed]
    sent = commit(api, target, operations, options.message, private=options.private)
    missing = set(publication.contents) - set(look(api, target.repo_id, sent.oid).files)
    if missing:
        raise UserError(
            f"{target.repo_id} has the commit {sent.oid}, but without {', '.join(sorted(missing))}: its .gitignore "
            "names them. Mend that file there, then push again."
        )
    report(f"Published: {sent.commit_url}")
    return sent
