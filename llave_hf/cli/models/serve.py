"""`llave serve`: a model behind OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command, add_dtype


def add(commands: Commands) -> None:
    parser = add_command(commands, "serve", run, "serve a model as OpenAI's /v1/embeddings")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    host = "the address it answers on (default: 127.0.0.1, this machine only)"
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help=host)
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0: a free one")
    parser.add_argument("--served_name", metavar="NAME", help="what clients call the model (default: MODEL)")
    parser.add_argument(
        "--device", metavar="NAME", help="where the model computes (default: the GPU, if there is one)"
    )
    add_dtype(parser)
    fetch = "fetch pictures and videos from public http(s) addresses; never from private networks"
    parser.add_argument("--allow_fetch", action="store_true", help=fetch)
    tokens = "tokens of a batch, padding included (default: 1024 on a CPU, 16384 on a GPU)"
    parser.add_argument("--max_tokens", type=int, metavar="N", help=tokens)
    parser.add_argument("--max_body", default="32mb", metavar="SIZE", help="of a request (default: 32mb)")
    parser.add_argument("--max_inputs", type=int, default=2048, metavar="N", help="of a request (default: 2048)")
    parser.add_argument("--max_pictures", type=int, default=16, metavar="N", help="of an input (default: 16)")
    pixels = "of an input's pictures, or of the frames looked at of its video (default: 67108864)"
    parser.add_argument("--max_pixels", type=int, default=1 << 26, metavar="N", help=pixels)
    queue = "inputs of all requests that may wait; beyond, 429 (default: 4096)"
    parser.add_argument("--max_queue", type=int, default=4096, metavar="N", help=queue)
    parser.epilog = "LLAVE_API_KEY in the environment asks clients for that key (Authorization: Bearer KEY)."


def run(arguments: argparse.Namespace) -> None:
    import sys
    from functools import partial

    from llave_hf.errors import UserError
    from llave_hf.runtime.places import check_model
    from llave_hf.serving.limits import Limits, parse_size
    from llave_hf.serving.listening import listen

    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        raise UserError(f"--max_tokens is {arguments.max_tokens}; give a positive number.")
    limits = Limits(
        body=parse_size(arguments.max_body),
        inputs=arguments.max_inputs,
        pictures=arguments.max_pictures,
        pixels=arguments.max_pixels,
        queue=arguments.max_queue,
    )
    check_model(arguments.model)
    try:
        from llave_hf.serving.access import VARIABLE, key_of_environment

        key = key_of_environment()
        listener = listen(arguments.host, arguments.port)  # before imports that take seconds, and the model's opening
        from llave_hf.serving.server import serve
    except ImportError as error:
        raise UserError(f"the server needs {error.name}: pip install 'llave-hf[serve]'.") from error
    from llave_hf.runtime.opening import load_quietly
    from llave_hf.serving.fetch import Fetcher
    from llave_hf.serving.served import open_model
    from llave_hf.serving.state import ServerState

    if key is None and arguments.host not in ("127.0.0.1", "::1", "localhost"):
        told = f"{arguments.host} can be reached by others, and {VARIABLE} is not set: anybody may ask"
        sys.stderr.write(f"llave: {told}\n")
    state = ServerState(
        name=arguments.served_name or arguments.model.rstrip("/"),
        limits=limits,
        key=key,
        fetch=Fetcher(limits.body) if arguments.allow_fetch else None,
    )
    load_quietly()
    options = {name: getattr(arguments, name) for name in ("device", "dtype", "max_tokens")}
    serve(state, partial(open_model, arguments.model, limits, **options), listener)
