"""Collections of faces: galleries of known people, and clusters; needs pyarrow and faiss."""

import logging
from typing import List

from ..errors import BackendUnavailable

# It tells which instructions it tried.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

try:
    import faiss  # noqa: F401
    import pyarrow  # noqa: F401
    import scipy  # noqa: F401 (everything in this folder needs them)
except ImportError as error:
    raise BackendUnavailable(
        f"galleries and clusters need pyarrow, faiss and scipy ({error}); install them with: "
        "pip install 'facezoo[gallery]'"
    ) from error

__all__: List[str] = []
