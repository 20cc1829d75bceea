"""`python -m llave_hf.cli`, also of several ranks: `accelerate launch -m llave_hf.cli evaluate-videos ...`."""

from __future__ import annotations

from llave_hf.errors import leave_ranks

from . import main

if __name__ == "__main__":
    main()
    leave_ranks()
