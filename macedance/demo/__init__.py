"""The built-in corpus: songs and choreography made by code."""
