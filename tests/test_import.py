"""`import llave_hf` and every `--help` pull in nothing that they do not need, however fast the machine is."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from llave_hf.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
HEAVY = {
    "accelerate",
    "av",
    "datasets",
    "evaluate",
    "fastapi",
    "fastapi_offline",
    "httpcore",
    "huggingface_hub",
    "lancedb",
    "matplotlib",
    "mteb",
    "numpy",
    "peft",
    "PIL",
    "prometheus_client",
    "pyarrow",
    "pydantic",
    "scipy",
    "sentence_transformers",
    "torch",
    "torchvision",
    "transformers",
    "uvicorn",
    "yaml",
}
NAMES = [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS]

# One process for all of a test: a module that any of its steps imports stays in sys.modules.
PREAMBLE = """
import contextlib, io, json, runpy, sys

def helped(module, *arguments):
    sys.argv = [module, *arguments, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert out.getvalue().strip(), (module, arguments)

def loaded():
    return sorted({name.split(".")[0] for name in sys.modules})

"""


def loaded_after(script: str) -> set[str]:
    """The top-level modules that a fresh process has imported at the end of a script."""
    command = [sys.executable, "-c", f"{PREAMBLE}{script}\nprint(json.dumps(loaded()))"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_import_and_errors_are_light() -> None:
    found = loaded_after("import llave_hf, llave_hf.errors, llave_hf.cli; dir(llave_hf)")
    assert sorted(HEAVY & found) == []


def test_help_of_every_command_is_light() -> None:
    steps = "".join(f"helped('llave_hf.cli', {name!r})\n" for name in NAMES)
    found = loaded_after(f"helped('llave_hf.cli')\n{steps}helped('llave_hf.train')\nhelped('llave_hf.evaluate')")
    assert sorted(HEAVY & found) == []


def test_help_of_the_scenes_needs_what_draws_and_writes_them() -> None:
    found = loaded_after("helped('llave_hf.data.scenes')")
    assert sorted(HEAVY & found) == ["PIL", "numpy", "pyarrow", "yaml"]


def test_what_transformers_imports_stays_light() -> None:
    """A process that reads a configuration or a tokenizer needs neither our models nor PyTorch's."""
    alone = "from transformers import AutoConfig, AutoTokenizer\nAutoConfig.for_model('qwen2')"
    script = f"import llave_hf\n{alone}\nAutoConfig.for_model('llave')\n"
    script += "assert not {'llave_hf.model.modeling_llave', 'llave_hf.model.processing_llave'} & {*sys.modules}"
    ours = loaded_after(script) - loaded_after(alone)  # transformers 5.17 imports accelerate itself
    assert sorted({"sentence_transformers", "datasets", "accelerate"} & ours) == []


def test_lazy_names_are_listed_and_unknown_ones_refused() -> None:
    import llave_hf
    from llave_hf import data

    for package in (llave_hf, data):
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
            _ = package.Nonsense


def test_a_stand_in_pickles_and_calls_as_its_class() -> None:
    """Registries are pickled where classes travel by value; a stand-in that was not used yet goes with them."""
    from llave_hf.errors import UserError
    from llave_hf.runtime.registration import _StandIn

    stand_in = _StandIn("llave_hf.errors:UserError")
    assert pickle.loads(pickle.dumps(stand_in)) is UserError
    assert isinstance(stand_in("text"), UserError) and stand_in.__name__ == "UserError"
