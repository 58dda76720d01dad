"""Diffusion: schedule, guidance, losses and samplers."""
