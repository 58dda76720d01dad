"""LightningModules: one per expert; they wire networks, objectives and metrics and hold no mathematics."""
