"""What the Appearance Expert's demo must reach."""

from __future__ import annotations

from launch.demos.bounds import Bound


def _gain(name: str, over: str, limit: float, what: str) -> Bound:
    return Bound(f"{name} - {over}", f"at least {limit:g} dB{what}", lambda v: limit, True, lambda v: v[name] - v[over])


def _fall(name: str, over: str, share: float) -> Bound:
    return Bound(f"1 - {name} / {over}", f"at least {share:g}", lambda v: share, True, lambda v: 1 - v[name] / v[over])


APPEARANCE_BOUNDS: tuple[Bound, ...] = (
    Bound("vae_psnr", "at least 28 dB", lambda v: 28.0, True),
    Bound("vae_psnr_mask", "at least 23 dB", lambda v: 23.0, True),
    _gain("psnr_mask", "psnr_mask_untrained", 4.0, ""),
    _gain("psnr_mask", "psnr_mask_repeat_reference", 4.0, ""),
    _gain("psnr_mask", "psnr_mask_wrong_pose", 4.0, ": it listens to the pose"),
    _gain("psnr_mask_shifted_kinematic", "psnr_mask_shifted_before", 0.7, ""),
    _fall("val_loss_shifted_kinematic", "val_loss_shifted_before", 0.10),
    _gain("psnr_mask_shifted_both", "psnr_mask_shifted_before", 1.0, ""),
    _fall("val_loss_shifted_both", "val_loss_shifted_before", 0.20),
)
