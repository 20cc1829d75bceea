"""The house: few files in a folder, a line in each that says its role, and tests that lie where the code does.

Which room may import which is checked by `make lint` (import-linter's contracts in pyproject.toml).
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from longest_first import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "llave_hf", ROOT / "tests"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT_FILES, FOLDER_FILES, FILE_LINES = 6, 18, 400
SEVERAL_ROOMS = {"distributed", "gpu"}  # folders of tests by what they need


def test_no_folder_holds_more_files_than_one_can_survey() -> None:
    counts = Counter(file.parent.relative_to(PACKAGE).as_posix() for file in FILES)
    assert counts.pop(".") <= ROOT_FILES
    assert {folder: count for folder, count in counts.items() if count > FOLDER_FILES} == {}


def test_no_file_is_long() -> None:
    assert [str(file) for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > FILE_LINES] == []


def test_every_file_and_folder_says_its_role_first() -> None:
    """A folder does so in its `__init__.py`, without which setuptools would leave it out of the wheel."""
    said = {file: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in FILES}
    assert [str(file) for file, text in said.items() if len(text.partition("\n")[0].split()) < 3] == []
    assert {str(file.parent) for file in FILES if file.parent / "__init__.py" not in said} == set()


def test_every_room_has_tests_of_its_name() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0] for file in FILES if file.parent != PACKAGE}
    tested = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    tested |= {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")}
    assert rooms - tested == set()


def test_tests_lie_where_the_code_does() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.glob("*/**/test_*.py")}
    assert {folder for folder in folders - SEVERAL_ROOMS if not (PACKAGE / folder / "__init__.py").is_file()} == set()


def test_no_two_files_of_tests_share_a_name() -> None:
    """pytest refuses the second, since folders of tests are no packages."""
    names = Counter(path.name for path in TESTS.rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_the_longest_tests_are_there() -> None:
    """Files that begin first (tests/longest_first.py): one that was renamed would begin anywhere."""
    names = {path.name for path in TESTS.rglob("test_*.py")}
    assert set(LONGEST) <= names
