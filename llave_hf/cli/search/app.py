"""`llave app`: a page to search a collection with, and the folder of a Space that shows it."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command, add_dtype


def add(commands: Commands) -> None:
    parser = add_command(commands, "app", run, "open a page that searches a collection")
    place = "the indexed folder, or where its collection lies (default: the working directory)"
    parser.add_argument("collection", nargs="?", default=".", metavar="DB", help=place)
    parser.add_argument("--model", metavar="MODEL", help="where the collection's model lies now (default: as indexed)")
    add_dtype(parser)
    parser.add_argument("--title", default="Search", metavar="TEXT", help="above the page (default: Search)")
    host = "the address it answers on (default: 127.0.0.1, this machine only)"
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help=host)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    size = "of an uploaded picture, at most (default: 20mb)"
    parser.add_argument("--max_file_size", default="20mb", metavar="SIZE", help=size)
    space = "open nothing, but write a folder that is a Hugging Face Space: the page, the collection and its files"
    parser.add_argument("--space", metavar="DIR", help=space)


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.runtime.opening import load_quietly
    from llave_hf.runtime.places import check_output_folder
    from llave_hf.search import Collection
    from llave_hf.search.app import build_app, launch_options
    from llave_hf.search.space import write_space

    if arguments.space:
        check_output_folder(arguments.space, "The Space's folder")
    load_quietly()
    collection = Collection.open(arguments.collection, arguments.model, dtype=arguments.dtype, create=False)
    if arguments.space:
        folder = write_space(collection, arguments.space, model=arguments.model, title=arguments.title)
        print(f"Written to {folder}; try it: python {folder}/app.py")
        print(f"Publish it: hf upload NAME/SPACE {folder} --repo-type space")
        return
    app = build_app(collection, arguments.title)
    app.launch(**launch_options(arguments.host, arguments.port, arguments.max_file_size))
