"""Which device computes."""

from medcode_serving.errors import MedcodeError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(wanted: str) -> str:
    """Return `cuda`, `mps` or `cpu`; `auto` takes the first of these that this machine has.

    Raises:
        MedcodeError: the device is unknown, or this machine does not have it.
    """
    import torch

    if wanted not in DEVICES:
        raise MedcodeError(f"unknown device {wanted!r}; use one of {', '.join(DEVICES)}")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, available in present.items() if available)
    if not present[wanted]:
        raise MedcodeError(f"device {wanted!r} is not available on this machine; use --device auto or cpu")
    return wanted
