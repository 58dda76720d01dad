"""The Appearance Expert: motion and one picture of a person -> video (MACE-Dance, over Wan-Animate)."""
