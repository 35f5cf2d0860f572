"""What a user did wrong, said in one sentence."""
from __future__ import annotations

__all__ = ["DataError", "FitError", "ModelError", "NomulError", "PlanError", "ToolError"]


class NomulError(ValueError):
    """Something that the user can mend. The message names the thing, the rule and the remedy.

    The command line prints it as it is and exits with 2.
    """


class ModelError(NomulError):
    """A network, or a network file, that means nothing or cannot be built."""


class PlanError(NomulError):
    """A plan that is illegal, or that belongs to another network."""


class DataError(NomulError):
    """Images, labels or vectors that do not match the network or each other."""


class ToolError(NomulError):
    """A tool that is missing or that failed."""


class FitError(NomulError):
    """A circuit that needs more of a resource than the chip has."""
