"""The commands of `llave`: a file each, with `add` (its options) and `run`.

`run` imports what it needs itself, so that `llave --help` stays quick.
"""

from llave_hf.cli import env
from llave_hf.cli.evaluation import compare, evaluate, evaluate_videos
from llave_hf.cli.models import convert, export, init, merge, serve, verify
from llave_hf.cli.publishing import card, push
from llave_hf.cli.search import app, embed, index, search
from llave_hf.cli.training import data, doctor, mine, sweep

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
    embed,
    index,
    search,
    app,
    data,
    doctor,
    sweep,
    verify,
    serve,
    push,
    env,
)  # in the order of `llave --help`

__all__ = ["COMMANDS"]
