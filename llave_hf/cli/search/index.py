"""`llave index`: a folder's texts, pictures and videos as a collection that `llave search` and `llave app` open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llave_hf.cli.command import Commands, add_command, add_dtype
from llave_hf.errors import UserError


def add(commands: Commands) -> None:
    parser = add_command(commands, "index", run, "make a folder searchable, or bring its collection up to date")
    folder = "with texts (.txt, .md), pictures and videos, at every depth, or with vectors of llave embed"
    parser.add_argument("folder", metavar="FOLDER", help=folder)
    parser.add_argument("--model", metavar="MODEL", help="a model folder or Hub id (default: the collection's)")
    add_dtype(parser)
    output = "where the collection lies: a folder, s3://…, gs://…, az://… (default: FOLDER/.llave_index)"
    parser.add_argument("--output", metavar="DB", help=output)
    globs = "only files that match one of these globs: '*.jpg', 'cats', '2024/*'"
    parser.add_argument("--include", nargs="+", default=[], metavar="GLOB", help=globs)
    parser.add_argument("--exclude", nargs="+", default=[], metavar="GLOB", help="leave out what matches one of these")
    prompts = r"change an instruction of a new collection, such as query='Find a photo of {text}\n'; NAME is one of "
    prompts += "query, image_query, image_text_query, text, image, video"
    parser.add_argument("--prompt", action="append", default=[], metavar="NAME=TEXT", help=prompts)
    parser.add_argument("--rebuild", action="store_true", help="start anew, with another model or other prompts")
    rows = "rows from which on searches use an approximate index (default: 100000)"
    parser.add_argument("--ann_from", type=int, metavar="N", help=rows)
    parser.add_argument("--all_broken", action="store_true", help="name every file that cannot be used")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a file cannot be used")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.encoding.prompts import parse_prompts
    from llave_hf.runtime.opening import load_quietly
    from llave_hf.runtime.places import check_folder
    from llave_hf.search import Collection
    from llave_hf.search.collection import ANN_FROM, FOLDER_NAME
    from llave_hf.search.listing import counts_line, report_lines
    from llave_hf.search.vectors import is_vectors, vectors_manifest

    load_quietly()
    check_folder(arguments.folder, "The folder of texts, pictures or videos")
    place = arguments.output or str(Path(arguments.folder) / FOLDER_NAME)
    prompts = parse_prompts(arguments.prompt)
    ann_from = ANN_FROM if arguments.ann_from is None else arguments.ann_from
    manifest = None
    if is_vectors(arguments.folder):
        if arguments.include or arguments.exclude:
            raise UserError(f"{arguments.folder} holds vectors, all of which are taken: leave out the globs.")
        manifest = vectors_manifest(arguments.folder, arguments.model)
    model = arguments.model or (manifest and manifest.settings["model"])
    collection = Collection.open(place, model, dtype=arguments.dtype, prompts=prompts, rebuild=arguments.rebuild)
    if manifest is not None:
        report = collection.add_vectors(arguments.folder, manifest, ann_from=ann_from)
    else:
        globs = {"include": arguments.include, "exclude": arguments.exclude}
        report = collection.add(arguments.folder, **globs, ann_from=ann_from, progress=True)
    print("\n".join(report_lines(report, all_broken=arguments.all_broken)))
    way = "approximate search" if report.approximate else "exact search"
    print(f"Collection {collection.uri}: {counts_line(collection.counts()) or 'empty'}; {way}")
    print(f'Search it  llave search "what you look for" --collection {arguments.output or arguments.folder}')
    if report.broken and arguments.strict:
        sys.exit(1)
