"""`llave embed`: the vectors of a corpus of any size, as parquet files."""

from __future__ import annotations

import argparse
import sys

from llave_hf.cli.command import Commands, add_command, add_dtype

PRECISIONS = ("float32", "float16", "int8", "ubinary")


def add(commands: Commands) -> None:
    add_options(add_command(commands, "embed", run, "write the vectors of a corpus of any size, as parquet files"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, also those of `python -m llave_hf.embed`."""
    source = "a .parquet, .jsonl, .json, .csv or .tar file, several ('shards/{00000..00099}.tar'), a folder of such, "
    source += "a folder of texts, pictures and videos, or a Hub data set"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("--model", required=True, metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the vectors go; a stopped run goes on")
    columns = "what of a row is embedded: a text with columns in braces, '{title}: {body}', or '{text: \"{caption}\", "
    columns += "image: COLUMN, video: COLUMN}' (default: columns with the names text, image and video)"
    parser.add_argument("--input", metavar="TEMPLATE", help=columns)
    kept = "columns that stay beside the vectors (default: all of texts, numbers, truth values and times)"
    parser.add_argument("--id", nargs="+", metavar="COLUMN", help=kept)
    root = "what paths of pictures and videos are relative to (default: the source's folder)"
    parser.add_argument("--media_root", metavar="DIR", help=root)
    parser.add_argument("--split", metavar="NAME", help="only this split of the source (default: all)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="only these subsets of the source")
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub data set")
    parser.add_argument("--prompt", metavar="TEXT", help=r"what stands before every text; \n is a new line")
    parser.add_argument("--prompt_name", metavar="NAME", help="the same by its name in the model")
    parser.add_argument("--dimensions", type=int, metavar="N", help="only the first N, normalised again")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the vectors (default: %(default)s)"
    )
    add_dtype(parser)
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda:1, ... (default: a GPU for each process)")
    rows = "of the source that one file of vectors holds at most; a kill loses no more (default: 10000)"
    parser.add_argument("--rows_per_shard", type=int, metavar="N", help=rows)
    parser.add_argument("--max_tokens", type=int, metavar="N", help="of a forward pass (default: by the device)")
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="threads that open pictures (default: one a core)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads that compute on a CPU (default: PyTorch's)")
    refresh = "embed anew what has changed in the source, and drop the vectors of what is gone"
    parser.add_argument("--refresh", action="store_true", help=refresh)
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a row has no vector")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.corpus.inputs import parse_description
    from llave_hf.corpus.ranks import Ranks
    from llave_hf.corpus.run import embed_corpus
    from llave_hf.corpus.settings import EmbedSettings
    from llave_hf.corpus.summary import summary_lines
    from llave_hf.runtime.opening import load_quietly

    load_quietly()
    ranks = Ranks.from_environment()
    given = {name: value for name, value in vars(arguments).items() if name in EmbedSettings.__dataclass_fields__}
    given["input"] = parse_description(arguments.input)
    given["prompt"] = None if arguments.prompt is None else arguments.prompt.replace("\\n", "\n")
    report = embed_corpus(EmbedSettings(**given), ranks=ranks, progress=True)
    # In one piece: `print` writes the line's end by itself where output is unbuffered, after another process's words.
    sys.stdout.write("".join(f"{line}\n" for line in summary_lines(report, ranks, arguments.output)))
    sys.stdout.flush()
    if report.total_errors and arguments.strict:
        sys.exit(1)
