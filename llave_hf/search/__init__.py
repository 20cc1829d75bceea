"""Search in folders of texts, pictures and videos: `llave index`, `llave search`, `llave app`.

files (what lies there) ─ changes (what is to do) ─ indexing (vectors, chunk by chunk) ─ store (LanceDB) ─ collection
"""

from .collection import Collection, Hit
from .indexing import IndexReport

__all__ = ["Collection", "Hit", "IndexReport"]
