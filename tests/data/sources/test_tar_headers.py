"""Headers of tar archives: what is read in batches is what `tarfile` reads, and what is wrong is told alike."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from llave_hf.data.sources import tar_headers
from llave_hf.data.sources.tar_members import Members, by_tarfile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a folder with a name/" * 6  # what GNU and POSIX write before the header, and ustar in two parts


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_headers, "_FIRST_BATCH", 3)
    monkeypatch.setattr(tar_headers, "_BATCH", 5)


def listed(parts: Iterable[Members]) -> list[tuple[str, int, int, int]]:
    return [
        row for part in parts for row in zip(part.names.to_pylist(), part.starts, part.firsts, part.sizes, strict=True)
    ]


def both(path: Path) -> tuple[Any, Any]:
    """What the two readers give, or say."""

    def result(read: Callable[[], Iterable[Members]]) -> Any:
        try:
            return listed(read())
        except ValueError as error:
            return str(error)

    file, size = str(path), path.stat().st_size
    return result(lambda: tar_headers.members_of(file)), result(lambda: by_tarfile(file, 0, size, "its first member"))


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def written(path: Path, form: str, members: Iterable[tuple[tarfile.TarInfo, bytes]], **settings: Any) -> Path:
    with tarfile.open(path, "w", format=FORMATS[form], **settings) as archive:
        for one, content in members:
            archive.addfile(one, io.BytesIO(content))
    return path


def plain() -> list[tuple[tarfile.TarInfo, bytes]]:
    made = []
    for row in range(7):
        made += [
            member(
                f"{row}.jpg", bytes([row]) * 700 * row, mtime=1.7e9 + row / 7
            ),  # a time that POSIX adds a header for
            member(f"{LONG}{row}.json", b"{}"),
            member(f"sub.dir/é{row}.txt", b"x" * 512),
        ]
        if row == 3:
            made += [
                member("sub.dir", type=tarfile.DIRTYPE),
                member("link.jpg", type=tarfile.SYMTYPE, linkname="0.jpg"),
                member("hard.jpg", type=tarfile.LNKTYPE, linkname="0.jpg"),
            ]
    return made


@pytest.mark.parametrize("form", FORMATS)
def test_plain_members_are_read_without_tarfile(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tar", form, plain())
    with tarfile.open(path) as archive:
        expected = [(one.name, one.offset, one.offset_data, one.size) for one in archive if one.isreg()]
    monkeypatch.setattr(tar_headers, "by_tarfile", None)
    assert listed(tar_headers.members_of(str(path))) == expected
    start = expected[8][1]
    assert listed(tar_headers.members_of(str(path), start)) == expected[8:]


@pytest.mark.parametrize(
    ("form", "odd", "settings"),
    [
        ("pax", member("5.txt", pax_headers={"size": "512"}), {}),
        ("pax", member("5.txt", b"odd"), {"pax_headers": {"comment": "of the whole archive"}}),
        ("gnu", member("old.txt", b"odd", type=tarfile.AREGTYPE), {}),
        ("gnu", member("c.txt", b"odd", type=tarfile.CONTTYPE), {}),
        ("gnu", member("long.link", type=tarfile.SYMTYPE, linkname=LONG + LONG), {}),
        ("gnu", member("large.txt", b"odd", uid=1 << 40), {}),
    ],
    ids=["size apart", "global header", "old kind", "in one piece", "long link", "large number"],
)
def test_unusual_members_are_read_by_tarfile(
    tmp_path: Path, form: str, odd: tuple[tarfile.TarInfo, bytes], settings: dict[str, Any]
) -> None:
    members = plain()
    behind = member("6.txt")  # whose header is the content of the one before, where that says its size apart
    path = written(tmp_path / "a.tar", form, [*members[:9], odd, behind, *members[9:]], **settings)
    own, expected = both(path)
    assert own == expected and len(own) >= 21


@pytest.mark.parametrize(
    "options", [["--format=v7"], ["--format=oldgnu"], ["--format=gnu"], ["--format=posix"], ["--format=ustar", "-b1"]]
)
@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_what_the_command_writes(tmp_path: Path, options: list[str]) -> None:
    for row in range(4):
        folder = tmp_path / "in" / "/".join(["deep"] * row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.txt").write_text("text" * 300 * row)
    os.link(tmp_path / "in/0.txt", tmp_path / "in/linked.txt")
    subprocess.run(["tar", "-cf", "a.tar", *options, "in"], cwd=tmp_path, check=True)
    own, expected = both(tmp_path / "a.tar")
    assert own == expected and len(own) == 4


@pytest.mark.parametrize("form", FORMATS)
def test_archives_that_were_cut_or_damaged(tmp_path: Path, form: str) -> None:
    content = written(tmp_path / "a.tar", form, plain()[:9]).read_bytes()
    cases = [content[:length] for length in range(0, len(content), 256)]
    chance = random.Random(0)
    for _ in range(40):
        changed = bytearray(content)
        for _ in range(8):
            changed[chance.randrange(len(changed))] = chance.randrange(128)
        cases.append(bytes(changed))
    messages = set()
    for case in cases:
        (tmp_path / "b.tar").write_bytes(case)
        own, expected = both(tmp_path / "b.tar")
        assert own == expected or ("UTF-8" in own and "broken" in expected)  # of two faults either may come first
        messages.add(own if isinstance(own, str) else "")
    assert len(messages) > 5


def sparse(form: str) -> tuple[tarfile.TarInfo, bytes]:
    """A member of 4096 bytes of which only the last three are stored."""
    if form == "pax":
        fields = {"major": "1", "minor": "0", "name": "1.jpg", "realsize": "4096"}
        return member(
            "GNUSparseFile/1.jpg",
            b"1\n4093\n3\n".ljust(512, b"\0") + b"abc",
            pax_headers={f"GNU.sparse.{name}": value for name, value in fields.items()},
        )
    return member("1.jpg", b"abc", type=tarfile.GNUTYPE_SPARSE)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_members_without_their_holes_are_refused(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "a.tar", form, [member("0.jpg", b"abc"), sparse(form)])
    with pytest.raises(ValueError, match=r"a.tar: the member '1.jpg' is stored without its holes; write .* --sparse"):
        listed(tar_headers.members_of(str(path)))


def test_names_in_another_encoding_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", "gnu", [member("café.jpg", b"abc")], encoding="latin-1")
    with pytest.raises(ValueError, match=r"a.tar: the name of the member b'caf\\xe9.jpg' is not in UTF-8"):
        listed(tar_headers.members_of(str(path)))
