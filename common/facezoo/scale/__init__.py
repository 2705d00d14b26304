"""Bulk scoring: a manifest of photos cut into shards that any engine can score; needs pyarrow."""

from typing import List

from ..errors import BackendUnavailable

try:
    import pyarrow  # noqa: F401 (everything in this folder needs it)
except ImportError as error:
    raise BackendUnavailable(
        f"this needs pyarrow ({error}); install it with: pip install pyarrow"
    ) from error

__all__: List[str] = []
