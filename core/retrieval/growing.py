"""An array that grows at its end without being copied each time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Growing:
    """Rows of `columns` numbers, or plain numbers. `view` is what is there; it is not for keeping."""

    def __init__(self, dtype: DTypeLike, columns: int | None = None) -> None:
        self._array: NDArray[Any] = np.zeros((0,) if columns is None else (0, columns), dtype)
        self._size = 0

    @staticmethod
    def of(rows: NDArray[Any]) -> Growing:
        """One that begins with `rows`, which it takes over."""
        made = Growing(rows.dtype)
        made._array, made._size = rows, len(rows)
        return made

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> Any:
        return self.view[place]

    @property
    def view(self) -> NDArray[Any]:
        return self._array[: self._size]

    @property
    def nbytes(self) -> int:
        return int(self._array.nbytes)

    def append(self, rows: NDArray[Any]) -> None:
        needed = self._size + len(rows)
        if needed > len(self._array):
            # By an eighth: what is idle in memory counts as much as what is used.
            room = max(needed, len(self._array) + len(self._array) // 8 + 64)
            larger = np.zeros((room, *self._array.shape[1:]), self._array.dtype)
            larger[: self._size] = self.view
            self._array = larger
        self._array[self._size : needed] = rows
        self._size = needed
