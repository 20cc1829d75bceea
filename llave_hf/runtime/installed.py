"""Which packages are here, in which versions, and whether they can be imported at all."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

DISTRIBUTION = "llave-hf"
NOT_INSTALLED = "not installed"
_MODULES = {"pillow": "PIL", "pyyaml": "yaml"}  # where the module is not called as the package is
_OF_DEVELOPERS = ("test", "dev")


def package_state(name: str) -> str:
    """A package's version, `not installed`, or the version and why it cannot be imported."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED
    with silence():
        try:
            module = importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # a broken package may raise anything
            return f"{found}, BROKEN ({one_line(error)})"
    own = getattr(module, "__version__", None)  # of torch this also says what it is built for: 2.14.1+cu130
    return own if isinstance(own, str) and own.startswith(found) else found


def extras() -> dict[str, str]:
    """For each extra of llave_hf what it needs and finds; where that is not all, the command that installs it."""
    needed: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        named = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        if named and requirement.marker and requirement.marker.evaluate({"extra": named[1]}):
            needed.setdefault(named[1], []).append(requirement)
    return {name: _extra_state(name, needed) for name in needed if name not in _OF_DEVELOPERS}


def one_line(error: Exception) -> str:
    """An error's kind and text."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing of what packages print, log and warn about when they are imported."""
    nowhere, level = io.StringIO(), logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _extra_state(extra: str, needed: Mapping[str, Sequence[Requirement]]) -> str:
    states = [_requirement_state(requirement) for requirement in _resolved(extra, needed)]
    complete = all(fits for _, fits in states)
    command = "" if complete else f": pip install '{DISTRIBUTION}[{extra}]'"
    return f"{'; '.join(state for state, _ in states)}{command}"


def _resolved(extra: str, needed: Mapping[str, Sequence[Requirement]]) -> Iterator[Requirement]:
    """The packages of an extra, also of the extras that it includes."""
    for requirement in needed.get(extra, ()):
        if requirement.name == DISTRIBUTION:
            for included in sorted(requirement.extras):
                yield from _resolved(included, needed)
        else:
            yield requirement


def _requirement_state(requirement: Requirement) -> tuple[str, bool]:
    state = package_state(requirement.name)
    if state == NOT_INSTALLED or "BROKEN" in state:
        return f"{requirement.name} {state}", False
    fits = requirement.specifier.contains(state, prereleases=True)
    return f"{requirement.name} {state}" + ("" if fits else f" (needed: {requirement.specifier})"), fits
