"""Python imports it at its start in every process that a test starts: warnings are errors there, too."""

from __future__ import annotations

import builtins
import gc
import os
import warnings

# Most of such a process's time goes into imports, and a fifth of theirs into looking for garbage where there is none.
gc.set_threshold(100_000, 50, 100)
for line in os.environ.get("TEST_WARNING_FILTERS", "").splitlines():
    action, message, category, module = (line.split(":") + [""] * 3)[:4]
    warnings.filterwarnings(action, message, getattr(builtins, category or "Warning"), module)
