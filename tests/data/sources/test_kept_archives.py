"""What is found in archives is kept for the next start, and is never older than the archive."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tables import picture_bytes, write_archive

from llave_hf.data import load_pairs, stream_pairs
from llave_hf.data.sources import archive_samples, archives
from llave_hf.data.stored import kept

BOTH = [load_pairs, stream_pairs]
ENTRY = {"query": "Find: {caption}", "positive": {"image": "png", "text": "{txt}"}}
ROWS = 5


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    kept._tell_of_no_room.cache_clear()
    return home


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return aged(written(tmp_path / "shards/0.tar"))


def written(path: Path, word: str = "caption", rows: int = ROWS) -> Path:
    members = [{"png": picture_bytes(row), "json": {"caption": f"{word} {row}"}, "txt": "é"} for row in range(rows)]
    return write_archive(path, [(f"{row:04d}", made) for row, made in enumerate(members)])


def aged(path: Path, seconds: float = 60) -> Path:
    changed = time.time() - seconds
    os.utime(path, (changed, changed))
    return path


def opened(path: Path | str, load: Callable[..., Any] = load_pairs, **changes: Any) -> list[tuple[str, str, bytes]]:
    pairs = load([{"path": str(path), **ENTRY, **changes}])
    samples = [(pairs[row].query.text, pairs[row].positive) for row in range(len(pairs))]
    return [(query, positive.text, positive.images[0].read()) for query, positive in samples]


def files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no archive is gone through."""

    def read(*arguments: Any) -> Any:
        raise AssertionError("the archive was read")

    monkeypatch.setattr(archive_samples, "samples_of", read)
    monkeypatch.setattr(archives, "_decoded", read)


def test_the_second_start_reads_no_archive(archive: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(archive)
    assert len(first) == ROWS and len(files(home)) == 2
    forbid(monkeypatch)
    assert opened(archive) == first
    monkeypatch.chdir(archive.parent)
    assert opened("0.tar") == first  # read from where it is named, not from where it was
    assert load_pairs([{"path": "0.tar", **ENTRY}])[0].positive.images[0].file == "0.tar"


def test_a_stream_counts_no_member_again(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(archive, stream_pairs)
    gone_through: list[tuple[Any, ...]] = []
    plain = archive_samples.members_of

    def counted(*arguments: Any) -> Any:
        gone_through.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(archive_samples, "members_of", counted)
    assert len(stream_pairs([{"path": str(archive), **ENTRY}])) == ROWS
    assert len(gone_through) == 1  # for the columns of the first rows
    assert opened(archive, stream_pairs) == first == opened(archive)


@pytest.mark.parametrize("load", BOTH)
def test_an_archive_that_changed_is_read_again(archive: Path, home: Path, load: Callable[..., Any]) -> None:
    opened(archive, load)
    before = archive.stat()
    written(archive, "caption", ROWS + 1)
    assert archive.stat().st_size == before.st_size  # in whole blocks of ten kilobytes
    aged(archive, 30)
    assert len(opened(archive, load)) == ROWS + 1
    written(archive, "another")
    os.utime(archive, ns=(before.st_mtime_ns, before.st_mtime_ns + 1))
    kept_before = len(files(home))
    assert opened(archive, load)[0][0] == "Find: another 0"
    assert len(files(home)) == kept_before  # in the place of what is of no use any more


def test_each_choice_of_columns_has_its_own(archive: Path, home: Path) -> None:
    opened(archive)
    assert opened(archive, query="{txt} of {caption}")[1][0] == "é of caption 1"
    assert opened(archive, query="{txt}", positive={"image": "image"})[1][:2] == ("é", "")
    assert len(files(home)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: content[:300] + bytes(300) + content[600:],  # a disk that lost power
        lambda content: content[:-200] + b"\xff" + content[-199:],
        lambda content: b"something else",
    ],
)
def test_what_is_broken_is_made_anew(
    archive: Path, home: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(archive)
    whole = {path: path.read_bytes() for path in files(home)}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert opened(archive) == first
    assert {path: path.read_bytes() for path in files(home)} == whole
    forbid(monkeypatch)
    assert opened(archive) == first


def test_what_another_version_kept_is_made_anew(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(archive)
    monkeypatch.setattr(kept, "FORMAT", "another")
    monkeypatch.setattr(archives, "_decoded", lambda *arguments: iter([]))
    with pytest.raises(ValueError, match="no column 'caption'"):  # nothing of the other version is used
        opened(archive)


AGES = {"now": 0, "a second ago": 1, "in the future": -100, "1970": time.time(), "a day later": time.time() - 86400}


@pytest.mark.parametrize("seconds", AGES.values(), ids=AGES)
def test_times_that_say_nothing_are_not_trusted(archive: Path, home: Path, seconds: float) -> None:
    """Now or in the future: it may be written to just now. 1970: the file system knows no time."""
    aged(archive, seconds)
    assert len(opened(archive)) == ROWS
    assert files(home) == []


def test_an_archive_that_changes_meanwhile_is_not_kept(
    archive: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = archive_samples.members_of

    def touching(*arguments: Any) -> Any:
        yield from plain(*arguments)
        aged(archive, 30)

    monkeypatch.setattr(archive_samples, "members_of", touching)
    opened(archive)
    assert files(home) == []  # nor the texts, which were read after that at the places from before
    decoded = archives._decoded

    def touching_texts(*arguments: Any) -> Any:
        yield from decoded(*arguments)
        aged(archive, 20)

    monkeypatch.setattr(archive_samples, "members_of", plain)
    monkeypatch.setattr(archives, "_decoded", touching_texts)
    opened(archive)
    assert len(files(home)) == 1  # where members lie


def test_a_folder_that_cannot_be_written_to(archive: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "llave_hf").write_text("a file where the folder should be")
    caplog.set_level(logging.WARNING)
    assert opened(archive) == opened(archive) and len(opened(archive)) == ROWS
    told = [record.getMessage() for record in caplog.records if "cannot be kept" in record.getMessage()]
    assert len(told) == 1 and str(home) in told[0]


def test_a_fault_is_told_at_each_start(tmp_path: Path, home: Path) -> None:
    path = aged(write_archive(tmp_path / "a.tar", [("0", {"png": b"1", "json": "{nonsense", "txt": "t"})]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a.tar: the member 0.json cannot be read"):
            opened(path)


def test_processes_that_start_at_once(archive: Path, home: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()

    def start() -> None:
        barrier.wait()
        results.put(archives.read_archive(str(archive), ["caption", "png"])[0].to_pylist())

    processes = [context.Process(target=start) for _ in range(4)]
    for process in processes:
        process.start()
    rows = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(one == rows[0] for one in rows) and len(rows[0]) == ROWS
    assert len(files(home)) == 2 and not any(path.suffix for path in files(home))
    assert archives.read_archive(str(archive), ["caption", "png"])[0].to_pylist() == rows[0]
