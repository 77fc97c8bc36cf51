"""decalog: ten production decision systems on one decision log."""

__version__ = "0.1.0"
