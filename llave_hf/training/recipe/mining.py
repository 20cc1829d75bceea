"""Keys of groups that are mined while a model is trained: `mine_every`, `mine_options`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .checks import check_keys

if TYPE_CHECKING:
    from llave_hf.data.mining.mining import MiningOptions

_OPTIONS = (
    *("group_by", "rank_min", "rank_max", "relative_margin", "absolute_margin", "max_score", "min_score", "index"),
)

NO_STREAM = "mine_every has to see all rows at once, which a stream does not: leave streaming out."


class MiningArguments(Protocol):
    """What is looked at of the arguments of a run."""

    batch_groups: bool
    mine_every: int
    mine_options: dict[str, Any] | None
    on_bad_sample: str


def check_mining(args: MiningArguments) -> None:
    """Whether the keys of mining go together.

    Raises:
        ValueError: They do not, or an option is none of `llave mine` or out of its range.
    """
    if args.mine_every < 0:
        raise ValueError(f"mine_every is {args.mine_every}; give a number of epochs, or 0 for never.")
    if args.mine_options is not None and not args.mine_every:
        raise ValueError("mine_options is given and nothing is mined; add mine_every, or leave it out.")
    if not args.mine_every:
        return
    if not args.batch_groups:
        raise ValueError(
            "mine_every finds anew the groups of batch_groups, which is off: set it, or leave mine_every out."
        )
    if args.on_bad_sample == "skip":
        raise ValueError(
            "mine_every encodes all rows, also those that on_bad_sample: skip would pass over; leave one of them out."
        )
    mining_options(args.mine_options)


def mining_options(given: dict[str, Any] | None) -> MiningOptions:
    """What `mine_options` says; the size of groups is that of the data.

    Raises:
        ValueError: An option is none of `llave mine`, or out of its range.
    """
    from llave_hf.data.mining.mining import MiningOptions  # what `llave sweep` need not wait for

    check_keys(given or {}, _OPTIONS, "mine_options")
    return MiningOptions(group_size=2, num_negatives=0, **(given or {}))
