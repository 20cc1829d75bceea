from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import hub_snapshot, pictures
from search_helpers import flat, write_folder

from llave_hf.data.media_files import list_files
from llave_hf.errors import UserError
from llave_hf.search.files import digest_of, kind_of


def paths(root: Path, **globs: list[str]) -> list[str]:
    return [file.path for file in list_files(root, **globs).files]


def test_what_can_be_opened_is_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    listing = list_files(write_folder(tmp_path))
    found = [file.path for file in listing.files]
    assert found == ["broken.png", "grey.mp4", "notes.md", "red.png", "it's/green.png", "it's/deep/blue.jpg"]
    assert dict(listing.left_out) == {".json files": 1}
    state = (tmp_path / "red.png").stat()
    file = listing.files[3]
    assert (file.size, file.modified) == (state.st_size, state.st_mtime_ns)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.png"], [], ["broken.png", "red.png", "it's/green.png"]),
        (["it's"], [], ["it's/green.png", "it's/deep/blue.jpg"]),
        (["it's/"], ["deep"], ["it's/green.png", "it's/deep/blue.jpg"]),
        (["it's/"], ["it's/deep"], ["it's/green.png"]),
        ([], ["*.md", "*.mp4", "broken*"], ["red.png", "it's/green.png", "it's/deep/blue.jpg"]),
    ],
)
def test_globs(tmp_path: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert paths(write_folder(tmp_path), include=include, exclude=exclude) == expected


def test_pipes_and_names_that_are_not_utf_8_are_left_out(tmp_path: Path) -> None:
    """To open a pipe would be to wait forever; a name in Latin-1 would end in an error about codecs."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(b"-")
    (tmp_path / "Bär.png").write_bytes(b"-")
    (tmp_path / os.fsdecode(b"B\xe4r.png")).write_bytes(b"-")
    (tmp_path / os.fsdecode(b"f\xff")).mkdir()
    (tmp_path / os.fsdecode(b"f\xff") / "b.png").write_bytes(b"-")
    listing = list_files(tmp_path)
    assert [file.path for file in listing.files] == ["Bär.png", "a.png"]
    assert listing.left_out == {"pipes, sockets and devices": 1, "files whose names are not UTF-8": 2}


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    outside = flat(tmp_path / "outside/private.png", "red")
    root = tmp_path / "root"
    flat(root / "own.png", "green")
    (root / "out.png").symlink_to(outside)
    (root / "in.png").symlink_to(root / "own.png")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "nothing.png").symlink_to(root / "absent.png")
    listing = list_files(root)
    assert [file.path for file in listing.files] == ["in.png", "own.png"]
    assert dict(listing.left_out) == {
        "links that lead out of the folder": 1,
        "linked folders that lead out of the folder": 1,
        "gone while looking, or links to nothing": 1,
    }


def test_linked_folders_are_entered_where_they_stay_inside_and_not_twice(tmp_path: Path) -> None:
    flat(tmp_path / "2024/may/a.png", "red")
    (tmp_path / "2024/may/back").symlink_to(tmp_path / "2024")  # a loop
    (tmp_path / "best").symlink_to("2024/may")
    (tmp_path / "best of all").symlink_to("best")
    (tmp_path / "itself").symlink_to("itself")
    listing = list_files(tmp_path)
    assert [file.path for file in listing.files] == ["2024/may/a.png", "best/a.png"]
    assert dict(listing.left_out) == {"linked folders that were entered already": 3, "files without a suffix": 1}


def test_a_snapshot_of_the_hubs_cache_is_a_folder_like_others(tmp_path: Path) -> None:
    snapshot = hub_snapshot(tmp_path, {"images/a.png": flat(tmp_path / "red.png", "red").read_bytes()})
    (snapshot / "out.png").symlink_to(tmp_path / "red.png")
    listing = list_files(snapshot)
    assert [file.path for file in listing.files] == ["images/a.png"]
    assert dict(listing.left_out) == {"links that lead out of the folder": 1}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"red\.png is no folder"):
        list_files(flat(tmp_path / "red.png", "red"))


def test_a_gif_is_a_video_where_it_moves(tmp_path: Path) -> None:
    first, second = pictures([(20, 20), (20, 20)])
    first.save(tmp_path / "still.gif")
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert [kind_of(tmp_path / name) for name in ("still.gif", "moving.gif")] == ["image", "video"]
    for suffix in ("webp", "png"):
        first.save(tmp_path / f"still.{suffix}")
        first.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=[second])
        kinds = [kind_of(tmp_path / f"{name}.{suffix}") for name in ("still", "moving")]
        assert kinds == ["image", "video"], suffix


def test_what_cannot_be_opened_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    for name in ("words.gif", "words.png"):
        (tmp_path / name).write_text("words")
        assert kind_of(tmp_path / name) == "image"


def test_a_digest_tells_content_and_how_it_is_opened(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.txt", "d.gif", "e.png"):
        (tmp_path / name).write_bytes(b"1" if name == "e.png" else b"0")
    a, b, c, d, e = (digest_of(path) for path in sorted(tmp_path.iterdir()))
    assert a == b and len({a, c, d, e}) == 4
