"""Language models with ternary weights that keep learning while they run."""

from os import PathLike
from pathlib import Path
from typing import Any, Iterator, Literal, Mapping, Sequence, TypedDict, Union

import numpy as np
import numpy.typing as npt

__version__: str

_Path = Union[str, PathLike[str]]
_Tokens = Union[Sequence[int], npt.NDArray[np.integer[Any]]]
_Rows = Union[_Tokens, Sequence[Sequence[int]]]
_Logits = npt.NDArray[np.float32]
_Stop = Union[int, str, Sequence[Union[int, str]], None]

class _Parity(TypedDict):
    positions: int
    max_logit_difference: float
    mean_logit_difference: float
    logit_deviation: float
    top1_agreement: float
    loss_core: float
    loss_trainer: float

class _Export(TypedDict):
    bytes: int
    fingerprint: str
    parity: _Parity

class BitttError(Exception):
    """Any refusal of this package."""

class InputError(BitttError, ValueError):
    """An argument, or the moment of a call, that makes no sense. What was called is left as it was."""

class FileError(BitttError, OSError):
    """A file that cannot be read or written, or that holds something else."""

def backends() -> list[str]:
    """Names of this machine's backends, slowest first."""

class Model:
    """A model in a .bttt file, which is mapped into memory and read in place.

    The file may be replaced by renaming another over it, but must not be written into.
    """

    def __init__(self, path: _Path, *, verify: bool = True) -> None:
        """Maps the file and checks it: every byte, or with `verify=False` its structure only, which makes running it safe."""
    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]:
        """Dimensions and layers."""
    @property
    def fingerprint(self) -> str:
        """Identifies the content, in eight hexadecimal digits."""
    @property
    def vocab_size(self) -> int:
        """Number of tokens, and of logits."""
    @property
    def document_token(self) -> int:
        """Token that starts and separates documents."""
    @property
    def has_tokenizer(self) -> bool:
        """Whether it takes and makes text."""
    @property
    def stop_tokens(self) -> list[int]:
        """Tokens that end what it writes."""
    @property
    def metadata(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Length of the file."""
    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without the document token."""
    def decode(self, tokens: _Tokens) -> str:
        """Text of tokens; what is no whole character is U+FFFD."""
    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation as an imported model was taught to read it, up to where its answer begins.

        messages: each with a "role" ("system", "user", "assistant") and a "content".
        """

class Session:
    """One stream of tokens through a model, which learns as it reads.

    One thread at a time may use it; many sessions compute at the same time in many threads.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch: int | None = None,
        context: int | None = None,
        threads: int | None = None,
        learning: bool = True,
        backend: str | None = None,
    ) -> None:
        """Starts at the beginning of a document.

        batch: tokens that go through a layer at once, 128 unless given; more takes memory.
        context: room for tokens in attention without a window, unless given the model's own figure.
        threads: one for each physical core unless given.
        backend: one of `backends()`, the fastest unless given.

        Of these only `context` and `learning` change results.
        """
    def forward(self, tokens: _Tokens) -> _Logits:
        """Reads tokens and returns the logits after each of them, [len(tokens), vocab_size]."""
    def step(self, token: int | np.integer[Any], out: _Logits | None = None) -> _Logits:
        """Reads one token and returns the logits that follow, [vocab_size]: a copy, or `out`."""
    def prefill(self, tokens: _Tokens, out: _Logits | None = None) -> _Logits:
        """Reads tokens and returns the logits that follow the last, [vocab_size]: a copy, or `out`."""
    def generate(
        self,
        prompt: str | _Tokens,
        max_tokens: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: _Stop = None,
    ) -> Generation:
        """Reads the prompt and returns an iterator over pieces of the text that follows.

        temperature: 0 takes the most probable token.
        top_k: keeps the most probable tokens; 0 keeps all.
        top_p: keeps the most probable tokens that make up this share.
        stop: tokens and strings to end before; the model's `stop_tokens` unless given, `[]` for none.
        """
    def generate_tokens(
        self,
        prompt: str | _Tokens,
        max_tokens: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: _Stop = None,
    ) -> TokenGeneration:
        """As `generate`, over tokens; `stop` takes tokens only."""
    def snapshot(self) -> bytes:
        """What was learned and where the stream is, for `restore` and for `--load-state` of the command."""
    def restore(self, snapshot: bytes | bytearray) -> None:
        """Goes on from a snapshot of the same model, to the same bits."""
    def freeze(self) -> None:
        """Reads without learning from now on."""
    def learn(self) -> None:
        """Learns from now on."""
    def reset(self) -> None:
        """Forgets everything: the beginning of a document."""
    def close(self) -> None:
        """Gives its memory back; it cannot be used any more."""
    def __enter__(self) -> Session: ...
    def __exit__(self, *_error: object) -> None: ...
    @property
    def model(self) -> Model: ...
    @property
    def position(self) -> int:
        """Tokens read since the beginning of the document."""
    @property
    def state_hash(self) -> str:
        """Checksum of the learned state and the position: equal on every machine after the same tokens."""
    @property
    def dropped_updates(self) -> int:
        """Updates that were dropped because they were not finite."""
    @property
    def learning(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def backend(self) -> str: ...

class Generation:
    """Text as it is made: pieces of whole characters. Every token given out has been read by the session."""

    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...
    @property
    def tokens(self) -> list[int]:
        """Tokens made so far."""
    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, the document token included."""
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why it ended, once it has."""

class TokenGeneration:
    """Tokens as they are made."""

    def __iter__(self) -> Iterator[int]: ...
    def __next__(self) -> int: ...
    @property
    def tokens(self) -> list[int]:
        """Tokens made so far."""
    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, the document token included."""
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why it ended, once it has."""

class Config:
    """Model and training: what a configuration file of `bitttt train` says."""

    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 128,
        num_layers: int = 4,
        inner_lr: float = 1.0,
        *,
        train: dict[str, Any] | None = None,
        **model: Any,
    ) -> None:
        """`model` takes the fields of `[model]`, `train` those of `[train]`: docs/TRAINING.md names them.

        hidden_dim is d_model, num_layers n_layers, inner_lr ttt_base_lr. Unless given, heads are 32 wide where that divides
        hidden_dim, and d_ffn is 2.75 times hidden_dim. vocab_size 0 takes the tokenizer's.
        """
    @staticmethod
    def load(path: _Path) -> Config:
        """Reads a file in TOML."""
    def to_dict(self) -> dict[str, Any]:
        """All fields."""
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_dim(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def inner_lr(self) -> float: ...

class Trainer:
    """Trains a model. One thread at a time may use it."""

    def __init__(self, config: Config, device: str = "cpu", *, tokenizer: _Path | None = None) -> None:
        """Fresh weights on `cpu` or `cuda[:N]`.

        tokenizer: "bytes" or a file of `bitttt tokenizer`, to go with the model; without one it is a model of tokens alone.
        """
    @staticmethod
    def load(path: _Path, device: str = "cpu") -> Trainer:
        """Goes on from what `save` or `bitttt train` wrote."""
    def train_step(self, tokens: _Rows, targets: _Rows | None = None, *, lr: float | None = None) -> float:
        """One step on tokens [batch, seq]; returns the mean loss, nats a token.

        Each token is to predict the next, or its target where `targets` [batch, seq] are given, of which negative ones do not
        count. The rate follows the configuration's schedule unless given.
        """
    def save(self, path: _Path) -> None:
        """Writes a checkpoint into a directory, from which `load` goes on to the same numbers."""
    def export(self, path: _Path, *, weights: Literal["t2", "t5"] = "t2", compact: bool = False) -> _Export:
        """Writes the model for `Model`, once core and trainer agree on the last batch.

        weights: 2 bits each (fast), or five in a byte (small).
        compact: 16 bits for gains, convolutions and inner rates, no metadata.
        """
    @property
    def step(self) -> int:
        """Steps done."""
    @property
    def parameters(self) -> int:
        """Learned values."""
    @property
    def config(self) -> Config: ...
