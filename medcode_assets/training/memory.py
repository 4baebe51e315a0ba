"""How much memory a training takes, as the machine says."""

import resource
import sys

GIB = 2**30


class MemoryMeter:
    """Memory of this process and of its device, in GiB."""

    def __init__(self, device: str) -> None:
        """Begin a new peak."""
        self._cuda = device.startswith("cuda")
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def now(self) -> dict[str, float]:
        """Return what is logged: the process's memory, and the device's peak where it has its own."""
        import psutil

        sizes = {"process_memory_gb": psutil.Process().memory_info().rss / GIB}
        if self._cuda:
            import torch

            sizes["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIB
        return sizes

    def peak_gb(self) -> float:
        """Return the highest memory of the device since the start, or of this process since it began."""
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated() / GIB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB
