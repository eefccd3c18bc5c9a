"""Some versions of the harness look for the constructor here, others in `module`."""

from .module import Nightjar

__all__ = ["Nightjar"]
