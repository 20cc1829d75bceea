"""Turns mteb's batches into inputs of `encode`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datasets import Video
from PIL import Image
from torch.utils.data import DataLoader

from llave_hf.model.media_llave import MediaError, as_sequence, load_clip, load_image

MODALITIES = ("text", "image", "video")


def read_batches(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    """One mapping an input, with some of `text`, `image` (a picture, or a list of several) and `video` (its frames).

    A text of nothing beside a picture or video is left out; columns that are no modality (ids, labels, titles, which
    mteb has joined to the text) are not looked at.

    Raises:
        ValueError: There is audio, none of the modalities, an input without content, or a file that cannot be read;
            but for the first two the message names the input's number.
    """
    _check_columns(getattr(loader.dataset, "column_names", None) or MODALITIES)
    number = 0
    for batch in _with_video_files(loader):
        _check_columns(batch)
        columns = {name: batch[name] for name in MODALITIES if name in batch}
        for values in zip(*columns.values(), strict=True):
            try:
                yield _entry(dict(zip(columns, values, strict=True)))
            except MediaError as error:
                raise MediaError(f"input {number}: {error}") from error
            number += 1


def _check_columns(names: Iterable[str]) -> None:
    if "audio" in names:
        raise ValueError("The task has audio, which these models cannot embed: choose tasks of text, image and video.")
    if not set(MODALITIES) & set(names):
        raise ValueError(
            f"The task's columns are {', '.join(sorted(names))}: none of {', '.join(MODALITIES)}, so there is nothing "
            "to embed. Rename a column, or set the task's input column."
        )


def _with_video_files(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader with videos as bytes or paths, which PyAV reads; datasets itself would need torchcodec."""
    dataset: Any = loader.dataset
    if not isinstance((getattr(dataset, "features", None) or {}).get("video"), Video):
        return loader
    return DataLoader(
        dataset.cast_column("video", Video(decode=False)),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if row.get("image") is not None:
        entry["image"] = _pictures(row["image"])
    if row.get("video") is not None:
        entry["video"] = load_clip(row["video"])
    if row.get("text") is not None and (row["text"] or not entry):
        if not isinstance(row["text"], str):
            raise MediaError(f"a text is given as {type(row['text']).__name__}; give a string.")
        entry["text"] = row["text"]
    if not entry:
        raise MediaError(f"{', '.join(row)} is empty; fill it or remove the row.")
    return entry


def _pictures(value: Any) -> Image.Image | list[Image.Image]:
    several = as_sequence(value)
    return load_image(value) if several is None else [load_image(picture) for picture in several]
