"""``macedance demo [appearance]``: which expert's demo is meant."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    if arguments and arguments[0] == "appearance":
        from launch.demos.appearance import main as appearance

        return appearance(arguments[1:])
    from launch.demos.motion import main as motion

    return motion(arguments)
