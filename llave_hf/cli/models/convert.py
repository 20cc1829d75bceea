"""`llave convert`: a published checkpoint as a folder of ours, and a parity report; exit code 1 if it fails."""

from __future__ import annotations

import argparse
import sys

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "convert", run, "write the native folder of a published LLaVE checkpoint")
    parser.add_argument("source", metavar="SRC", help="a folder or Hub id in the published layout (llava_qwen)")
    parser.add_argument("folder", metavar="DST", help="the folder to write; must be new or empty")
    parser.add_argument("--reference", metavar="DIR", help="values of the research code to compare with")
    parser.add_argument("--vision-tower", metavar="DIR|ID", help="SigLIP, for a checkpoint without vision weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights")
    parser.add_argument("--backend", choices=["pil", "torchvision"], help="of the processor (default: pil)")
    parser.add_argument(
        "--resize_order", choices=["across_first", "installed"], help="of Pillow's passes (default: across_first)"
    )
    thorough = "all inputs of the fingerprint go through the model, not a few where it is large"
    parser.add_argument("--thorough", action="store_true", help=thorough)
    parser.add_argument("--revision", help="of the Hub repository")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.checkpoints.conversion import convert as convert_checkpoint

    settings = {name: getattr(arguments, name) for name in ("backend", "resize_order") if getattr(arguments, name)}
    report = convert_checkpoint(
        arguments.source,
        arguments.folder,
        reference=arguments.reference,
        vision_tower=arguments.vision_tower,
        dtype=arguments.dtype,
        settings=settings,
        thorough=arguments.thorough,
        **({"revision": arguments.revision} if arguments.revision else {}),
    )
    print(report.to_markdown())
    if not report.ok:
        sys.exit(1)
