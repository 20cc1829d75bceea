"""What stands in a folder of mined rows."""

from __future__ import annotations

ROWS_FILE = "original.jsonl"
REPORT_FILE = "mining.json"
CACHE_FOLDER = ".embeddings"
PICTURES_FOLDER = "pictures"
