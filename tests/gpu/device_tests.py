"""The tests marked `gpu`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from rows import FAILED, OK, SKIPPED, Row, Setting

ROOT = Path(__file__).absolute().parents[2]
LONG = "not kernels_on_a_gpu"  # compiles some thirty kernels
PROCESSES = 4


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        if setting.quick:
            command += ["-k", LONG]
        elif setting.on_gpu and util.find_spec("xdist"):
            command += ["-n", str(PROCESSES)]
        environment = {**os.environ, "LLAVE_TEST_DEVICE": setting.device}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        sys.stdout.write(run.stdout[-8000:] + run.stderr[-2000:])
        if not report.exists():
            yield Row("pytest -m gpu", f"no report, exit code {run.returncode}", "all pass", FAILED)
            return
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    reasons: Counter[str] = Counter()
    bad = []
    for case in cases:
        if (skipped := case.find("skipped")) is not None:
            reasons[f"{case.get('classname', '').removeprefix('tests.')}: {skipped.get('message')}"] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            bad.append(case)
    passed = len(cases) - len(bad) - sum(reasons.values())
    yield Row("pytest -m gpu", f"{passed} passed, {len(bad)} failed", "all pass", FAILED if bad or not cases else OK)
    for case in bad:
        broken = case.find("failure") if case.find("failure") is not None else case.find("error")
        message = "" if broken is None else (broken.get("message") or "").splitlines()[0][:200]
        yield Row(f"{case.get('classname')}::{case.get('name')}", message, "passes", FAILED)
    for reason, count in reasons.items():
        # On a GPU nothing that is marked may be left out.
        yield Row(f"{count} test(s)", reason, "", FAILED if setting.on_gpu else SKIPPED)
