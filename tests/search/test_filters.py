from __future__ import annotations

from datetime import date, datetime

import pytest

from llave_hf.errors import UserError
from llave_hf.search.filters import condition, quoted


def nanoseconds(*moment: int) -> int:
    return int(datetime(*moment).timestamp()) * 10**9


def test_quotes_stay_inside() -> None:
    assert quoted("it's") == "'it''s'"
    assert condition(folder="x' OR '1'='1") == "contains(concat('/', path), '/x'' OR ''1''=''1/')"


def test_no_filter_is_no_condition() -> None:
    assert condition() is None
    assert condition([], ".") is None


def test_days_are_whole() -> None:
    lower, upper = nanoseconds(2025, 1, 31), nanoseconds(2025, 2, 1)
    expected = f"modified >= {lower} AND modified < {upper}"
    assert condition(since="2025-01-31", until="2025-01-31") == expected
    assert condition(since=date(2025, 1, 31), until=date(2025, 1, 31)) == expected


def test_times_are_exact() -> None:
    assert condition(since="2025-01-31T12:30") == f"modified >= {nanoseconds(2025, 1, 31, 12, 30)}"
    assert condition(until=datetime(2025, 1, 31, 12)) == f"modified < {nanoseconds(2025, 1, 31, 12)}"


def test_folders_are_written_in_any_way() -> None:
    plain = condition(folder="2024/cats")
    assert plain == "contains(concat('/', path), '/2024/cats/')"
    assert {condition(folder=name) for name in ("./2024/cats/", "2024\\cats", "/2024//cats")} == {plain}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"kinds": ["images"]}, "kind is 'images'; choose among text, image, video"),
        ({"since": "yesterday"}, "'yesterday' is no date"),
        ({"until": "2025-02-30"}, "'2025-02-30' is no date"),
        ({"folder": "../cats"}, "name one inside the indexed folder"),
    ],
)
def test_what_means_nothing_is_refused(filters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        condition(**filters)
