"""``python -m facezoo`` is the command ``facezoo``, for where that is not on the path."""

from __future__ import annotations

from typing import List

from .cli.main import main

__all__: List[str] = []

if __name__ == "__main__":
    raise SystemExit(main())
