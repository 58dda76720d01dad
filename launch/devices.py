"""Which device a command runs on."""

from __future__ import annotations

from macedance.errors import ConfigError


def pick_device(name: str | None) -> str:
    """The device to run on: the one asked for, or a GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the device {name!r} cannot be used: {reason}", fix="leave --device out") from error
    return name
