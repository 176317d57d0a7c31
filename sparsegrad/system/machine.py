"""What a report of a fault needs to know of a machine, and of what is installed on it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

from sparsegrad import kernels
from sparsegrad.kernels.vectors.simd import BYTES
from sparsegrad.system.memory import available_memory
from sparsegrad.system.quantities import count, size

NEEDED = ("numba", "llvmlite", "numpy", "scipy")
EXTRAS = ("safetensors", "rich", "matplotlib", "torch", "rustworkx", "jax")
_WIDTHS = (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128))


def describe_machine() -> dict[str, str]:
    """Return versions, CPU, vectors, threads, memory and the kernels' cache, a line each."""
    folder, files, held = kernel_cache()
    return {
        "sparsegrad": version("sparsegrad-rtrl"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "needs": _versions(NEEDED),
        "extras": _versions(EXTRAS),
        "cpu": f"{_cpu_name()} ({binding.get_host_cpu_name()}), {_usable()} of "
        f"{os.cpu_count()} cores usable",
        "vectors": f"{vector_width()} bits; kernels compute in {8 * BYTES}",
        "threads": f"{numba.get_num_threads()}, {'interpreted' if _interpreted() else 'compiled'}",
        "memory": "unknown" if (free := available_memory()) is None else f"{size(free)} available",
        "cache": f"{folder}: {count(files)} files, {size(held)}",
    }


def vector_width() -> int:
    """Return the bits of this CPU's widest vectors that LLVM knows of."""
    features: dict[str, bool] = dict(binding.get_host_cpu_features())
    return next((bits for name, bits in _WIDTHS if features.get(name)), 64)


def kernel_cache() -> tuple[Path, int, int]:
    """Return the folder where compiled kernels are kept, how many files it has, and their bytes.

    A folder given by NUMBA_CACHE_DIR is counted whole, whoever else keeps kernels there.
    """
    config: Any = numba.config
    folder = Path(kernels.__file__).resolve().parent  # in __pycache__ beside the sources
    cache = getattr(kernels.panels_update, "_cache", None)  # none where they are interpreted
    if config.CACHE_DIR:
        folder = Path(config.CACHE_DIR)
    elif cache is not None and Path(cache.cache_path).name != "__pycache__":
        folder = Path(cache.cache_path).parent
    sizes = [path.stat().st_size for path in folder.rglob("*.nb[ci]")]
    return folder, len(sizes), sum(sizes)


def _versions(names: tuple[str, ...]) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _cpu_name() -> str:
    """Return the CPU's name as its maker writes it, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _interpreted() -> bool:
    config: Any = numba.config
    return bool(config.DISABLE_JIT)
