"""The version of the client, which is Nightjar's (common/version.h)."""

__version__ = "0.1.0"
