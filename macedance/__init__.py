"""Music-driven dance generation: motion, music, networks, diffusion, metrics, rendering and pipelines.

The library. It imports no training framework; ``datamodules``, ``lightning_modules``, ``callbacks`` and ``launch``
stand on it and never the other way round.
"""

__version__ = "0.1.0"
