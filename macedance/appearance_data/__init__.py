"""Clips of dancers for the Appearance Expert: their files, their latents, and a toy corpus made by code."""
