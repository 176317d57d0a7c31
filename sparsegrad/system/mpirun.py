"""What mpirun tells a process in its environment, before any MPI is there."""

import os

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")


def ranks_told() -> tuple[int, int]:
    """Return which process this is, among how many: (0, 0) without mpirun."""
    rank, size = (
        max((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()),
            default=least)
        for names, least in ((_RANKS, 0), (_SIZES, 0))
    )  # fmt: skip
    return rank, size
