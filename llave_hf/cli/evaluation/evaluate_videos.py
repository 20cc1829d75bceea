"""`llave evaluate-videos`: zero-shot text-video retrieval: a table, and R@1 by frames and visual tokens."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command

from .evaluate import add_encoding_options


def add(commands: Commands) -> None:
    parser = add_command(commands, "evaluate-videos", run, "score a model on zero-shot text-video retrieval")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="msrvtt-1ka or msvd")
    protocol = "clip4clip (all captions) or mmeb-v2 (the first caption, 8 frames); their numbers are not comparable"
    parser.add_argument("--protocol", required=True, metavar="NAME", help=protocol)
    parser.add_argument("--data", required=True, metavar="DIR", help="the folder of captions and videos")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results are written")
    frames = "frames a video, several for a curve (default: 32 for clip4clip, 8 for mmeb-v2)"
    parser.add_argument("--frames", nargs="+", type=int, metavar="N", help=frames)
    parser.add_argument("--captions", metavar="FILE", help="the caption file, if not found in --data by its name")
    parser.add_argument("--videos", metavar="DIR", help="the folder of the videos, if not --data")
    add_encoding_options(parser)


def run(arguments: argparse.Namespace) -> None:
    from accelerate import PartialState

    from llave_hf.evaluation.video.report import markdown_video_report
    from llave_hf.evaluation.video.retrieval import evaluate_videos

    state = PartialState()  # one of several processes under `accelerate launch -m llave_hf.cli`
    results = evaluate_videos(
        arguments.model,
        arguments.dataset,
        arguments.protocol,
        arguments.data,
        frames=arguments.frames,
        captions=arguments.captions,
        videos=arguments.videos,
        output_dir=arguments.output,
        batch_size=arguments.batch_size,
        cache=arguments.cache,
        dtype=arguments.dtype,
    )
    if state.is_main_process:
        print(markdown_video_report(results.to_dict()))
        written = "results.json, results.md, curve.csv, curve.png, per_query.safetensors"
        print(f"Written to {arguments.output}: {written}")
    state.destroy_process_group()
