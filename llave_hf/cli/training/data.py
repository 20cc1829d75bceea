"""`llave data`: what training data hold, and what a model would get of them; exit code 1 if rows cannot be used."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from llave_hf.cli.command import Commands, add_command

if TYPE_CHECKING:
    from llave_hf.data.look.prompts import DefaultPrompts, ModelPrompts


def add(commands: Commands) -> None:
    parser = add_command(commands, "data", run, "look at training data before training")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a folder in MMEB's layout, a file of rows, a Hub id; or one recipe (.yaml), whose train_data are meant",
    )
    parser.add_argument("--media_root", metavar="DIR", help="what paths of pictures are relative to (default: SOURCE)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="look at only these subsets")
    parser.add_argument("--split", help="of the data (default: original, else train)")
    parser.add_argument("--streaming", action="store_true", help="read some shards of each task instead of all rows")
    parser.add_argument("--model", metavar="DIR", help="its processor makes the prompts and counts tokens")
    rows = "of all tasks whose pictures are opened, evenly spaced, and at least 20 of each task (default: 1000)"
    parser.add_argument("--rows", type=int, metavar="N", help=rows)
    parser.add_argument("--output", metavar="FILE", help="write a page for the browser (.html), pictures included")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> None:
    import json

    from llave_hf.data.look.look import look_at
    from llave_hf.data.look.page import write_page
    from llave_hf.data.look.summary import summary
    from llave_hf.data.look.text import lines
    from llave_hf.errors import UserError
    from llave_hf.runtime.places import check_output_file

    if arguments.output is not None:
        check_output_file(arguments.output, "The page")
    if arguments.rows is not None and arguments.rows < 1:
        raise UserError(f"--rows is {arguments.rows}; give a whole number above 0.")
    options, title = _what(arguments)
    look = look_at(rows=arguments.rows, prompts=_prompts(arguments.model), **options)
    if arguments.json:
        print(json.dumps(summary(look), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(look)))
    if arguments.output is not None:
        write_page(look, arguments.output, title)
        print(f"Written to {arguments.output}", file=sys.stderr)
    if look.problems:
        print(f"{look.problems} problem(s): training would refuse the data, or be misled", file=sys.stderr)
        sys.exit(1)


def _what(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What to look at, as [`look_at`] takes it, and what it is called."""
    from llave_hf.data.sources.specs import parse_specs, read_specs
    from llave_hf.errors import UserError
    from llave_hf.runtime.places import check_file

    given = {"media_root": arguments.media_root, "subsets": arguments.subsets, "split": arguments.split}
    recipes = [source for source in arguments.sources if source.endswith((".yaml", ".yml"))]
    if not recipes:
        specs = parse_specs(arguments.sources, **given)
        return {"specs": specs, "streaming": arguments.streaming}, ", ".join(arguments.sources)
    if len(arguments.sources) > 1:
        raise UserError(f"{recipes[0]} is a recipe, and stands beside other sources: look at it alone.")
    from llave_hf.training.recipe.recipe import load_recipe

    check_file(recipes[0], "The recipe")
    recipe = load_recipe(recipes[0])
    data = recipe.data
    of_recipe = {"media_root": data.media_root, "subsets": data.train_subsets, "split": data.train_split}
    chosen = {name: value if value is not None else of_recipe[name] for name, value in given.items()}
    specs = read_specs(data.train_data, **chosen, max_samples=data.max_samples_per_source)
    streaming, use_negatives = arguments.streaming or data.streaming, recipe.training.use_negatives
    return {"specs": specs, "streaming": streaming, "use_negatives": use_negatives}, recipes[0]


def _prompts(model: str | None) -> DefaultPrompts | ModelPrompts:
    from llave_hf.data.look.prompts import DefaultPrompts, ModelPrompts

    if model is None:
        return DefaultPrompts()
    from llave_hf.model.processing_llave import LlaveProcessor
    from llave_hf.runtime.places import check_model

    check_model(model)
    return ModelPrompts(LlaveProcessor.from_pretrained(model), model)
