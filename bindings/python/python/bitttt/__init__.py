"""Language models with ternary weights that keep learning while they run.

>>> import bitttt
>>> model = bitttt.Model("demo/demo.bttt")
>>> session = bitttt.Session(model)
>>> for piece in session.generate("Ada Varga", max_tokens=20, temperature=0):
...     print(piece, end="")
"""

import os as _os

# Candle's own pool waits by spinning; the work that is worth it goes over other threads. Read when the first trainer is made.
_os.environ.setdefault("CANDLE_NUM_THREADS", "1")

from ._errors import BitttError, FileError, InputError
from ._bitttt import (
    Config,
    Generation,
    Model,
    Session,
    TokenGeneration,
    Trainer,
    __version__,
    backends,
)

__all__ = [
    "BitttError",
    "Config",
    "FileError",
    "Generation",
    "InputError",
    "Model",
    "Session",
    "TokenGeneration",
    "Trainer",
    "backends",
]
