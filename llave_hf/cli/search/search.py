"""`llave search`: what in a collection is nearest to a text, a picture or both."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from llave_hf.cli.command import Commands, add_command, add_dtype


def add(commands: Commands) -> None:
    parser = add_command(commands, "search", run, "search a collection that llave index made")
    parser.add_argument(
        "text", nargs="?", metavar="TEXT", help="what to look for; without it and --image: lines of standard input"
    )
    parser.add_argument("--image", metavar="FILE", help="a picture to look for, or to change as TEXT says")
    place = "the indexed folder, or where its collection lies (default: the working directory)"
    parser.add_argument("--collection", default=".", metavar="DB", help=place)
    parser.add_argument("--model", metavar="MODEL", help="where the collection's model lies now (default: as indexed)")
    add_dtype(parser)
    parser.add_argument("-k", type=int, default=10, metavar="N", help="how many (default: 10)")
    parser.add_argument("--kind", nargs="+", choices=("text", "image", "video"), help="only these")
    parser.add_argument("--folder", metavar="NAME", help="only files in folders of this name or path: cats, 2024/cats")
    parser.add_argument("--since", metavar="DATE", help="only files changed since 2025-01-31 or 2025-01-31T12:00")
    parser.add_argument("--until", metavar="DATE", help="only files changed up to that day, or before that time")
    parser.add_argument("--exact", action="store_true", help="compare with every vector, whatever index there is")
    parser.add_argument("--json", action="store_true", help="one JSON list a query")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.runtime.opening import load_quietly
    from llave_hf.runtime.places import check_file
    from llave_hf.search import Collection
    from llave_hf.search.listing import hit_json, hit_lines

    if arguments.image:
        check_file(arguments.image, "The picture")
    load_quietly()
    collection = Collection.open(arguments.collection, arguments.model, dtype=arguments.dtype, create=False)
    filters = {name: getattr(arguments, name) for name in ("k", "kind", "folder", "since", "until", "exact")}
    queries = [arguments.text] if arguments.text is not None or arguments.image else _lines()
    for text in queries:
        hits = collection.search(text, arguments.image, progress=True, **filters)
        print(hit_json(hits) if arguments.json else "\n".join(hit_lines(hits)), flush=True)


def _lines() -> Iterator[str]:
    """Queries from standard input, until its end; asked for where somebody sits there."""
    while True:
        if sys.stdin.isatty():
            print("search> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
