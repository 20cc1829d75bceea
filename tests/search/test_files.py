from __future__ import annotations

from pathlib import Path

import pytest
from helpers import pictures
from search_helpers import flat, write_folder

from llave_hf.errors import UserError
from llave_hf.search.files import digest_of, kind_of, list_files


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
    assert sum(listing.left_out.values()) == 2


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"red\.png is no folder"):
        list_files(flat(tmp_path / "red.png", "red"))


def test_a_gif_is_a_video_where_it_moves(tmp_path: Path) -> None:
    first, second = pictures([(20, 20), (20, 20)])
    first.save(tmp_path / "still.gif")
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert [kind_of(tmp_path / name) for name in ("still.gif", "moving.gif")] == ["image", "video"]


def test_a_digest_tells_content_and_how_it_is_opened(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.txt", "d.gif", "e.png"):
        (tmp_path / name).write_bytes(b"1" if name == "e.png" else b"0")
    a, b, c, d, e = (digest_of(path) for path in sorted(tmp_path.iterdir()))
    assert a == b and len({a, c, d, e}) == 4
