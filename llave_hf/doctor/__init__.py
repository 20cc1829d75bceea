"""`llave doctor`: what a recipe would run into, found before it costs money."""

from .examination import Finding, examine

__all__ = ["Finding", "examine"]
