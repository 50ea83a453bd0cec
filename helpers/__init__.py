"""The library behind the course on diffusion and energy-based models.

``data ─► schedules ─► nn ─► diffusion ─► samplers ─► training ─► evaluation ─► zoo``, with the exact answers of
``oracle`` beside them, and ``plotting`` and ``checks`` for the lessons. The book's notation page names the conventions.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
