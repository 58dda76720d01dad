"""Motion metrics as torchmetrics classes over pure functions."""
