"""Built-in data: drawn scenes with captions from a grammar, full of near-misses, for quick starts and tests."""

from __future__ import annotations

from .drawing import draw
from .grammar import Description, Scene, random_description, random_scene
from .writer import write_scenes

__all__ = ["Description", "Scene", "draw", "random_description", "random_scene", "write_scenes"]
