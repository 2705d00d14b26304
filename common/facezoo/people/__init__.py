"""Collections of faces, and groups of them."""

from typing import List

__all__: List[str] = []
