"""The command `llave`: thin, one function a command.

A command is a function `(arguments) -> None` that imports what it needs itself (`llave --help` stays quick), and
a function `_add_…` that describes its options, called in `build_parser`. Errors in input, files and settings end with
one line and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from llave_hf import __version__
from llave_hf.errors import UserError, user_errors

Command = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line (`sys.argv` where None)."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not hasattr(arguments, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = rest
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if arguments.debug:
        os.environ["LLAVE_DEBUG"] = "1"
    with user_errors():
        arguments.command(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; each sub-parser's `command` is the function that runs it."""
    parser = argparse.ArgumentParser(prog="llave", description="LLaVE multimodal embedding models.")
    parser.add_argument("--version", action="version", version=f"llave {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_evaluate(commands)
    _add_card(commands)
    _add_convert(commands)
    _add_init(commands)
    _add_export(commands)
    _add_merge(commands)
    _add_mine(commands)
    _add_doctor(commands)
    _add_verify(commands)
    return parser


def evaluate(arguments: argparse.Namespace) -> None:
    """`llave evaluate`: results.json, results.md, results.png in the output folder, and the tables on the screen."""
    from llave_hf.evaluation import evaluate_benchmark
    from llave_hf.evaluation.report import markdown_report

    results = evaluate_benchmark(
        arguments.model,
        arguments.benchmark,
        output_dir=arguments.output,
        data=arguments.data,
        batch_size=arguments.batch_size,
        subsets=arguments.subsets,
    )
    print(markdown_report(results.to_dict()))
    print(f"Written to {arguments.output}: results.json, results.md, results.png")


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "evaluate", evaluate, "score a model on a benchmark")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument(
        "--benchmark", required=True, metavar="FILE|NAME", help="a YAML file, or a bundled name (mmeb)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results are written")
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of the benchmark's rows and pictures, if not the file's own"
    )
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="inputs encoded at once (default: 32)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="evaluate only these subsets")


def card(arguments: argparse.Namespace) -> None:
    """`llave card`: README.md and its plots in the model's folder."""
    from llave_hf.hub.model_card import write_model_card

    print(f"Written: {write_model_card(arguments.model, force=arguments.force)}")


def _add_card(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "card", card, "write the card of a model folder")
    parser.add_argument("model", metavar="MODEL", help="a folder that training left")
    parser.add_argument("--force", action="store_true", help="overwrite a README.md that was not written by llave")


def verify(arguments: argparse.Namespace) -> None:
    """`llave verify`: recomputes a fingerprint, or a published card's similarities; exit code 1 if they differ."""
    from llave_hf.hub.reference_values import verify_published
    from llave_hf.hub.verify import verify as verify_fingerprint

    if arguments.published and not arguments.picture:
        raise UserError("--published needs --picture FILE, figures/example.jpg of the published repository.")
    if arguments.picture and arguments.backend != "auto":
        raise UserError("--picture compares what AutoModel gives; leave --backend out.")
    if arguments.picture:
        options = {"size": arguments.published, "dtype": arguments.dtype or "float32", "device": arguments.device}
        verdict = verify_published(arguments.model, arguments.picture, **options)
    else:
        options = {"backend": arguments.backend, "dtype": arguments.dtype, "device": arguments.device}
        verdict = verify_fingerprint(arguments.model, **options)
    print("\n".join(verdict.lines))
    if verdict.difference is not None:
        sys.exit(1)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "verify", verify, "check that a model gives the vectors of its fingerprint")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    backends = ("auto", "sentence-transformers", "llave-sentence-transformer")
    parser.add_argument("--backend", choices=backends, default="auto", help="what opens the model (default: auto)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fingerprint's")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where the model computes (default: cpu)")
    parser.add_argument(
        "--published", choices=("0.5B", "2B"), help="compare with the card of this published LLaVE instead"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="figures/example.jpg of the published repository, for --published"
    )


def convert(arguments: argparse.Namespace) -> None:
    """`llave convert`: a native folder from a published checkpoint, and the parity report; exit code 1 if it fails."""
    from llave_hf.conversion import convert as convert_checkpoint
    from llave_hf.hub.fingerprint import write_fingerprint

    settings = {name: getattr(arguments, name) for name in ("backend", "resize_order") if getattr(arguments, name)}
    report = convert_checkpoint(
        arguments.source,
        arguments.folder,
        reference=arguments.reference,
        vision_tower=arguments.vision_tower,
        dtype=arguments.dtype,
        settings=settings,
        **({"revision": arguments.revision} if arguments.revision else {}),
    )
    print(report.to_markdown())
    if not report.ok:
        sys.exit(1)
    write_fingerprint(arguments.folder)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "convert", convert, "write the native folder of a published LLaVE checkpoint")
    parser.add_argument("source", metavar="SRC", help="a folder or Hub id in the published layout (llava_qwen)")
    parser.add_argument("folder", metavar="DST", help="the folder to write; must be new or empty")
    parser.add_argument("--reference", metavar="DIR", help="values of the research code to compare with")
    parser.add_argument("--vision-tower", metavar="DIR|ID", help="SigLIP, for a checkpoint without vision weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights")
    parser.add_argument("--backend", choices=["pil", "torchvision"], help="of the processor (default: pil)")
    parser.add_argument(
        "--resize_order", choices=["across_first", "installed"], help="of Pillow's passes (default: across_first)"
    )
    parser.add_argument("--revision", help="of the Hub repository")


def init(arguments: argparse.Namespace) -> None:
    """`llave init`: an embedding model out of a vision-language model, ready to train."""
    from llave_hf.initialisation import init_from_backbone

    own = ("max_length", "image_tiling", "video_newline", "unpad_rounding", "backend", "dtype", "revision")
    options = {name: getattr(arguments, name) for name in own if getattr(arguments, name) is not None}
    print(init_from_backbone(arguments.backbone, arguments.folder, **options))


def _add_init(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "init", init, "make an embedding model out of a vision-language model")
    parser.add_argument("--backbone", required=True, metavar="ID|DIR", help="LLaVA-OneVision, Qwen2-VL, 2.5 or 3")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    parser.add_argument("--max_length", type=int, metavar="N", help="longest input in tokens (default: 4096)")
    parser.add_argument("--image_tiling", choices=["anyres", "anyres_single", "none"], help="LLaVA-OneVision's tiles")
    parser.add_argument("--video_newline", choices=["one_token", "frame", "grid", "no_token"])
    parser.add_argument("--unpad_rounding", choices=["truncate", "round"])
    parser.add_argument("--backend", choices=["pil", "torchvision"], help="of the processor")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights")
    parser.add_argument("--revision", help="of the Hub repository")


def merge(arguments: argparse.Namespace) -> None:
    """`llave merge`: a PEFT adapter and its base as one model folder."""
    from llave_hf.adapters import merge_adapter

    print(merge_adapter(arguments.adapter, arguments.folder))


def _add_merge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "merge", merge, "merge a PEFT adapter into its base model")
    parser.add_argument("adapter", metavar="ADAPTER", help="a folder or Hub id with adapter_config.json")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")


def mine(arguments: argparse.Namespace) -> None:
    """`llave mine`: rows with hard negatives, in MMEB's layout."""
    from dataclasses import fields

    from llave_hf.data.mined_rows import mine as mine_rows
    from llave_hf.data.mining import MiningOptions

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
    )
    print(f"Written to {folder}; train on it with --train_data {folder} --use_negatives and the same --media_root")


def _add_mine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "mine", mine, "find hard negatives for training rows")
    parser.add_argument("data", metavar="DATA", help="a folder in MMEB's layout, a .parquet or .jsonl file, a Hub id")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the rows are written; goes on from there"
    )
    parser.add_argument("--media_root", metavar="DIR", help="what paths of pictures are relative to (default: DATA)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="mine only these subsets")
    parser.add_argument("--split", help="of the data (default: original, else train)")
    parser.add_argument("--num_negatives", type=int, default=5, metavar="N", help="a row, at most (default: 5)")
    parser.add_argument("--rank_min", type=int, default=0, metavar="N", help="leave out so many of the nearest")
    parser.add_argument("--rank_max", type=int, default=100, metavar="N", help="look at so many (default: 100)")
    margin = "leave out what scores above (1 - MARGIN) x the positive's score (default: 0.05)"
    parser.add_argument("--relative_margin", type=float, default=0.05, metavar="MARGIN", help=margin)
    margin = "leave out what scores above the positive's score - MARGIN"
    parser.add_argument("--absolute_margin", type=float, metavar="MARGIN", help=margin)
    parser.add_argument("--max_score", type=float, metavar="COSINE", help="leave out what scores above it")
    parser.add_argument("--min_score", type=float, metavar="COSINE", help="leave out what scores below it")
    parser.add_argument(
        "--index", choices=["exact", "faiss"], default="exact", help="faiss: approximate, if installed"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="inputs a forward pass (default: the encoder's)")


def doctor(arguments: argparse.Namespace) -> None:
    """`llave doctor`: what a recipe would run into; exit code 1 if there is a problem."""
    from llave_hf.doctor import examine

    problems = 0
    options = {"fast": arguments.fast, "tflops": arguments.tflops, "devices": arguments.devices}
    for finding in examine(arguments.recipe, arguments.overrides, **options):
        print(finding, flush=True)
        problems += finding.level == "PROBLEM"
    if problems:
        print(f"{problems} problem(s): the run would fail or waste its time")
        sys.exit(1)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "doctor", doctor, "check a recipe before it costs money")
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, as for llave_hf.train")
    parser.add_argument("--fast", action="store_true", help="look at a sample of the rows and files")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="that will train (default: 1)")
    parser.add_argument("--tflops", type=float, metavar="X", help="dense teraflops a second of one device")
    parser.epilog = "Any other --key value overrides the recipe's, as for llave_hf.train."
    parser.set_defaults(overrides=[])


def export(arguments: argparse.Namespace) -> None:
    """`llave export`: stock weights, processor and modules.json, that open without llave_hf."""
    from llave_hf.hub.export import export as export_folder

    print(export_folder(arguments.model, arguments.folder, arguments.format))


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "export", export, "write a folder that opens without llave_hf")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    parser.add_argument("--format", required=True, choices=["llava_onevision"], help="transformers' own model class")


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    main()
