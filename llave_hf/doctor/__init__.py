"""`llave doctor`: what a recipe would run into, found before it costs money."""

from .examination import examine
from .findings import Finding

__all__ = ["Finding", "examine"]
