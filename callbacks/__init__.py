"""What happens around training: EMA, previews, metrics on disk, progress."""
