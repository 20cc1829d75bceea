"""`llave init`: an embedding model out of a vision-language model, ready to train."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "init", run, "make an embedding model out of a vision-language model")
    parser.add_argument("--backbone", required=True, metavar="ID|DIR", help="LLaVA-OneVision, Qwen2-VL, 2.5, 3 or 3.5")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    parser.add_argument("--max_length", type=int, metavar="N", help="longest input in tokens (default: 4096)")
    parser.add_argument("--image_tiling", choices=["anyres", "anyres_single", "none"], help="LLaVA-OneVision's tiles")
    parser.add_argument("--video_newline", choices=["one_token", "frame", "grid", "no_token"])
    parser.add_argument("--unpad_rounding", choices=["truncate", "round"])
    parser.add_argument("--backend", choices=["pil", "torchvision"], help="of the processor")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights")
    thorough = "all inputs of the fingerprint go through the model, not a few where it is large"
    parser.add_argument("--thorough", action="store_true", help=thorough)
    parser.add_argument("--revision", help="of the Hub repository")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.checkpoints.initialisation import init_from_backbone

    own = ("max_length", "image_tiling", "video_newline", "unpad_rounding", "backend", "dtype", "revision")
    options = {name: getattr(arguments, name) for name in own if getattr(arguments, name) is not None}
    print(init_from_backbone(arguments.backbone, arguments.folder, thorough=arguments.thorough, **options))
