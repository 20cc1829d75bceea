"""Python imports it at its start in every process that a test starts: warnings are errors there, too."""

from __future__ import annotations

import builtins
import os
import warnings

for line in os.environ.get("TEST_WARNING_FILTERS", "").splitlines():
    action, message, category, module = (line.split(":") + [""] * 3)[:4]
    warnings.filterwarnings(action, message, getattr(builtins, category or "Warning"), module)
