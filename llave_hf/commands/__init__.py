"""The commands of `llave`: a file each, with `add` (its options) and `run`.

`run` imports what it needs itself, so that `llave --help` stays quick.
"""

from . import (
    app,
    card,
    compare,
    convert,
    doctor,
    env,
    evaluate,
    evaluate_videos,
    export,
    index,
    init,
    merge,
    mine,
    push,
    search,
    sweep,
    verify,
)

COMMANDS = (
    evaluate,
    evaluate_videos,
    compare,
    card,
    convert,
    init,
    export,
    merge,
    mine,
    index,
    search,
    app,
    doctor,
    sweep,
    verify,
    push,
    env,
)  # in the order of `llave --help`

__all__ = ["COMMANDS"]
