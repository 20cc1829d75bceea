"""`llave mine`: rows with hard negatives, in MMEB's layout."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command, add_dtype


def add(commands: Commands) -> None:
    parser = add_command(commands, "mine", run, "find hard negatives for training rows")
    parser.add_argument("data", metavar="DATA", help="a folder in MMEB's layout, a .parquet or .jsonl file, a Hub id")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the rows are written; goes on from there"
    )
    parser.add_argument("--media_root", metavar="DIR", help="what paths of pictures are relative to (default: DATA)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="mine only these subsets")
    parser.add_argument("--split", help="of the data (default: original, else train)")
    parser.add_argument(
        "--num_negatives", type=int, default=5, metavar="N", help="a row, at most (default: 5); 0 with --group_size"
    )
    parser.add_argument("--rank_min", type=int, default=0, metavar="N", help="leave out so many of the nearest")
    parser.add_argument("--rank_max", type=int, default=100, metavar="N", help="look at so many (default: 100)")
    margin = "leave out what scores above (1 - MARGIN) x the positive's score (default: 0.05); none: no such margin"
    parser.add_argument("--relative_margin", type=_number_or_none, default=0.05, metavar="MARGIN", help=margin)
    margin = "leave out what scores above the positive's score - MARGIN"
    parser.add_argument("--absolute_margin", type=float, metavar="MARGIN", help=margin)
    parser.add_argument("--max_score", type=float, metavar="COSINE", help="leave out what scores above it")
    parser.add_argument("--min_score", type=float, metavar="COSINE", help="leave out what scores below it")
    parser.add_argument(
        "--index", choices=["exact", "faiss"], default="exact", help="faiss: approximate, if installed"
    )
    parser.add_argument(
        "--group_size",
        type=int,
        default=0,
        metavar="G",
        help="group rows that are hard for each other, for batch_groups",
    )
    by = "how: rows that rank among each other's nearest, or a query beside the owners of its nearest documents"
    parser.add_argument("--group_by", choices=["mutual_ranks", "owner_queries"], default="mutual_ranks", help=by)
    judge = "score positives and negatives, 0 to 1, by a CrossEncoder or a model that embeds; drop what it calls right"
    parser.add_argument("--judge", metavar="MODEL", help=judge)
    margin = "right is what it scores above the positive's score - MARGIN (default: 0)"
    parser.add_argument("--judge_margin", type=float, default=0.0, metavar="MARGIN", help=margin)
    parser.add_argument("--judge_threshold", type=float, metavar="SCORE", help="right is, too, what it scores above")
    candidates = "a query that it is asked about (default: twice --num_negatives)"
    parser.add_argument("--judge_candidates", type=int, metavar="N", help=candidates)
    parser.add_argument("--batch_size", type=int, metavar="N", help="inputs a forward pass (default: the encoder's)")
    add_dtype(parser)


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import fields

    from llave_hf.data.mining.mined_rows import mine as mine_rows
    from llave_hf.data.mining.mining import MiningOptions
    from llave_hf.data.mining.names import PICTURES_FOLDER
    from llave_hf.runtime.opening import load_quietly

    load_quietly()

    options = MiningOptions(**{field.name: getattr(arguments, field.name) for field in fields(MiningOptions)})
    folder = mine_rows(
        arguments.data,
        arguments.model,
        arguments.output,
        options,
        media_root=arguments.media_root,
        subsets=arguments.subsets,
        split=arguments.split,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        judge=arguments.judge,
    )
    keys = ["--use_negatives"] * (options.num_negatives > 0) + ["--batch_groups"] * (options.group_size > 0)
    # Pictures that stood in the rows are files of the folder now.
    root = f"--media_root {folder}" if (folder / PICTURES_FOLDER).is_dir() else "and the same --media_root"
    print(f"Written to {folder}; train on it with --train_data {folder} {' '.join(keys)} {root}")
