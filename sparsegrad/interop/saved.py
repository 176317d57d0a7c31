"""J of a state that a host may come back to, copied only where it is wanted. NumPy alone."""

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsegrad.influence.influence import Influence
from sparsegrad.symbolic.pattern import ReachPattern

if TYPE_CHECKING:
    from sparsegrad.interop.window import Window


class Store:
    """J's values, and who counts on them: with more than one, whoever changes them copies."""

    __slots__ = ("influence", "users")

    def __init__(self, influence: Influence) -> None:
        self.influence = influence
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()


class Saved:
    """J of some sequences after a step, and the state that it belongs to; it does not change.

    Attributes
    ----------
    batch : int
        Sequences; 0 before any began.
    """

    def __init__(self, window: "Window", number: int) -> None:
        self._window, self._number = window, number
        self._store: Store | None = None
        self._fresh = window._fresh or window._new
        self._resets = None if window._resets is None else window._resets.copy()
        self._last = None if self._fresh else window.last.copy()

    @property
    def batch(self) -> int:
        """Sequences; 0 before any began."""
        return 0 if self._fresh else self._window.batch

    def __repr__(self) -> str:
        return f"Saved(batch={self.batch}, entries={self._window.pattern.nnz})"

    def __getitem__(self, index: Any) -> "Saved":
        """Return that of some of the sequences: an index, a slice, indices or a bool mask.

        Raises
        ------
        IndexError
            If there is no such sequence.
        """
        if self._fresh or self._last is None:
            raise IndexError("there is no sequence yet: save after a first step")
        if not isinstance(index, slice):
            index = np.asarray(index, np.intp if np.size(index) == 0 else None)
        chosen = np.atleast_1d(np.arange(self.batch)[index])
        if not chosen.size:
            raise IndexError("at least one sequence must be chosen, got none")
        window, store = self._window.like(), self.store()
        window.begin(chosen.size)
        window._influence._panels[:] = store.influence._panels[chosen]
        window.last[:] = self._last[:, chosen]
        window._resets = None if self._resets is None else self._resets[chosen]
        return window.save()

    def settle(self, store: Store) -> None:
        """Have J in `store`: the window is about to go on."""
        self._store = store
        store.users.add(self)

    def store(self) -> Store:
        """Return where J is, after the steps before it."""
        if self._store is None:
            self._window.settle(self)
        assert self._store is not None
        return self._store

    @property
    def pattern(self) -> ReachPattern:
        """Of J."""
        return self._window.pattern

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of J."""
        return self._window.dtype

    def resume(self, owner: Any) -> "Window":
        """Return a window of `owner` that goes on from here.

        It is the one that this came from, if that is its own and has not moved.
        """
        window = self._window
        if self._store is None and window.count == self._number and window.owner is owner:
            window._resets = None if self._resets is None else self._resets.copy()
            return window
        made = window.like(self)
        made.owner = owner
        return made
