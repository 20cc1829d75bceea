"""Text files as editors and scrapers write them: byte order marks, other encodings, halves of characters."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

_UTF8_MARK = codecs.BOM_UTF8
_OTHER_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def utf8_lines(lines: Iterable[bytes], file: str | Path, first_line: int = 1) -> Iterator[str]:
    """The lines of a file, without its byte order mark.

    Args:
        lines: As the file has them.
        file: For messages.
        first_line: Number of the first of them in the file.

    Raises:
        ValueError: They are in another encoding than UTF-8; the message names the file and the line.
    """
    for number, line in enumerate(lines, start=first_line):
        if number == 1:
            refuse_other_marks(line, file)
            line = line.removeprefix(_UTF8_MARK)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(file, number, error)) from error


def utf8_text(file: str | Path) -> str:
    """The content of a file, without its byte order mark.

    Raises:
        ValueError: It is in another encoding than UTF-8; the message names the file and the line.
    """
    content = Path(file).read_bytes()
    refuse_other_marks(content, file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(file, content.count(b"\n", 0, error.start) + 1, error)) from error


def refuse_other_marks(start: bytes, file: str | Path) -> None:
    """Looks whether a file begins as one in UTF-16 or UTF-32 does.

    Raises:
        ValueError: It does.
    """
    found = next((name for mark, name in _OTHER_MARKS.items() if start.startswith(mark)), None)
    if found is None and b"\0" in start[:4]:
        found = "UTF-16 or UTF-32"
    if found is not None:
        raise ValueError(f"{file} is written in {found}; save it as UTF-8.")


def _not_utf8(file: str | Path, line: int, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return (
        f"{file}, line {line} is not in UTF-8 (byte 0x{byte:02x}: {error.reason}); it may be in Latin-1 or "
        "Windows-1252: save the file as UTF-8."
    )


def read_csv(path: Path) -> pa.Table:
    """The rows of a file of comma- (semicolon-, tab-) separated values with a line of names; all values are texts.

    Raises:
        ValueError: It is not in UTF-8, or a row has another number of values than there are names.
    """
    import pyarrow.csv

    text = utf8_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    names = next(csv.reader([header.rstrip("\r")], delimiter=delimiter), [])
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}); correct it.") from error


def check_texts(table: pa.Table, file: str, first_row: int = 0) -> pa.Table:
    """The table, whose texts have been looked at: Arrow takes any bytes for text, tokenizers do not.

    Args:
        table: Neighbouring rows of a file.
        file: For messages.
        first_row: Number of the first of them in the file.

    Raises:
        ValueError: One is not in UTF-8; the message names row and column.
    """
    for name in table.column_names:
        start = first_row
        for chunk in table.column(name).chunks:
            try:
                chunk.validate(full=True)
            except pa.ArrowInvalid as error:
                row = next((row for row in range(len(chunk)) if not _is_valid(chunk.take(pa.array([row])))), 0)
                raise ValueError(
                    f"{file}, row {start + row}, column {name!r} has half a character (a lone surrogate) or another "
                    f"encoding than UTF-8 ({error}); correct it."
                ) from error
            start += len(chunk)
    return table


def _is_valid(value: pa.Array) -> bool:
    try:
        value.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def first_fault(values: Sequence[Any]) -> int:
    """The first of some values that holds half a character."""
    return next(row for row, value in enumerate(values) if _has_half_a_character(value))


def _has_half_a_character(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return True
    return False


def no_half_characters(place: str, column: str, value: Any) -> str:
    """What to say of a text that has one."""
    return (
        f"{place}, column {column!r}: {value!r:.80} has half a character (a lone surrogate), which no tokenizer "
        "takes; correct it."
    )
