"""The commands of `llave`: a file each, with `add` (its options) and `run`.

`run` imports what it needs itself, so that `llave --help` stays quick.
"""

from . import card, convert, doctor, evaluate, export, init, merge, mine, verify

COMMANDS = (evaluate, card, convert, init, export, merge, mine, doctor, verify)  # in the order of `llave --help`

__all__ = ["COMMANDS"]
