"""Collections of faces: galleries of known people, and clusters; needs pyarrow and faiss."""

from typing import List

from ..errors import BackendUnavailable

try:
    import faiss  # noqa: F401
    import pyarrow  # noqa: F401 (everything in this folder needs both)
except ImportError as error:
    raise BackendUnavailable(
        f"galleries and clusters need pyarrow and faiss ({error}); install them with: "
        "pip install 'facezoo[gallery]'"
    ) from error

__all__: List[str] = []
