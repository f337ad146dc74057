"""The version of batcher.

Invariant: it is stated here and in pyproject.toml, and they are the same.
"""

__version__ = "0.1.0"
