"""nomul: neural networks on small FPGAs without a single multiplier."""
from importlib.metadata import version

__version__ = version("nomul")
