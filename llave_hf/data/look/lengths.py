"""Tokens of samples, as a model's own processor counts them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llave_hf.data.samples import Pair, Sample
from llave_hf.model.media_llave import MediaError

from .prompts import DefaultPrompts, ModelPrompts, Prompt
from .remarks import NOTE, PROBLEM, Remark
from .spread import Spread


@dataclass(frozen=True)
class TokenLook:
    """Tokens of some samples of a task, visual ones too.

    Attributes:
        by_role: Of queries, positives and negatives.
        rows: Whose samples were counted.
        samples: Distinct ones that were counted.
        cut: Of these, how many lose the end of their text to the model's length.
        faults: Row and reason of those that have no prompt, but for media that do not open.
    """

    by_role: dict[str, Spread] = field(default_factory=dict)
    rows: int = 0
    samples: int = 0
    cut: int = 0
    faults: tuple[str, ...] = ()


def count_tokens(pairs: Sequence[Pair], prompts: DefaultPrompts | ModelPrompts) -> TokenLook:
    """Of each distinct sample of some pairs once; nothing where there is no processor that counts."""
    if isinstance(prompts, DefaultPrompts):
        return TokenLook()
    made: dict[Sample, Prompt | None] = {}
    numbers = defaultdict(list)
    faults = []
    for pair in pairs:
        roles = [("query", pair.query), ("positive", pair.positive)]
        for role, sample in [*roles, *(("negative", negative) for negative in pair.negatives)]:
            if sample not in made:
                try:
                    made[sample] = prompts.of(sample)
                except MediaError:  # told of when pictures were opened
                    made[sample] = None
                except ValueError as error:
                    made[sample] = None
                    faults.append(f"row {pair.row}: {error}")
            prompt = made[sample]
            if prompt is not None and prompt.tokens is not None:
                numbers[role].append(prompt.tokens)
    whole = [prompt for prompt in made.values() if prompt is not None]
    spreads = {role: spread for role, counts in numbers.items() if (spread := Spread.of(counts)) is not None}
    return TokenLook(spreads, len(pairs), len(whole), sum(prompt.lost > 0 for prompt in whole), tuple(faults))


def token_remarks(name: str, look: TokenLook) -> Iterator[Remark]:
    """What is worth saying of them."""
    if look.faults:
        text = f"{len(look.faults):,} samples have no prompt: {look.faults[0]}"
        yield Remark(PROBLEM, name, text)
    if look.cut:
        text = f"{look.cut:,} of {look.samples:,} samples counted are longer than the model's max_length: "
        yield Remark(NOTE, name, text + "the end of their text is left out")
