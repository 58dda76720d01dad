"""The shard writer, the index and the global order of samples."""
