"""Network blocks: Mamba mixers and their scans, FiLM, attention, embeddings."""
