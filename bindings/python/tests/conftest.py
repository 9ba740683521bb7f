"""What the tests run on: the demo model of the repository, and tiny models that the package itself trains."""

from pathlib import Path

import bitttt
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "demo" / "demo.bttt"


@pytest.fixture(scope="session")
def demo() -> bitttt.Model:
    return bitttt.Model(DEMO)


@pytest.fixture
def session(demo: bitttt.Model) -> bitttt.Session:
    return bitttt.Session(demo)


@pytest.fixture(scope="session")
def story(demo: bitttt.Model) -> "list[int]":
    """A text of some mini-batches, with the document token in front."""
    text = "Ada Varga opened the door. The mill is old, and Ada Varga likes it. "
    return [demo.document_token] + demo.encode(text * 4)


def small(**train) -> bitttt.Config:
    """A model that trains in no time."""
    defaults = {"steps": 100, "lr": 8e-3}
    return bitttt.Config(
        31, hidden_dim=32, num_layers=2, n_heads=2, d_ffn=48, mini_batch=4, train={**defaults, **train}
    )


@pytest.fixture
def rows() -> np.ndarray:
    """Tokens [batch, seq] that follow a rule."""
    start = np.arange(4)[:, None] * 7
    return (start + np.arange(24)[None, :] * 3) % 31


@pytest.fixture(scope="session")
def without_text(tmp_path_factory: pytest.TempPathFactory) -> bitttt.Model:
    """A model of tokens alone, with attention, so that its context is bounded."""
    config = bitttt.Config(
        31, 32, 2, n_heads=2, d_ffn=48, mixers=["ttt-linear", "attention"], context=40, mini_batch=4
    )
    trainer = bitttt.Trainer(config)
    trainer.train_step(np.arange(30).reshape(2, 15))
    path = tmp_path_factory.mktemp("tokens") / "tokens.bttt"
    trainer.export(path)
    return bitttt.Model(path)


@pytest.fixture(scope="session")
def crab(tmp_path_factory: pytest.TempPathFactory) -> bitttt.Model:
    """A model of bytes that has learned to write two characters in turn."""
    config = bitttt.Config(0, 32, 1, n_heads=1, d_ffn=64, train={"steps": 120, "lr": 1e-2})
    trainer = bitttt.Trainer(config, tokenizer="bytes")
    text = np.frombuffer(("日🦀" * 12).encode(), dtype=np.uint8).astype(np.int64) + 1
    tokens = np.tile(np.concatenate([[0], text]), (2, 1))
    for _ in range(120):
        loss = trainer.train_step(tokens)
    assert loss < 0.1
    path = tmp_path_factory.mktemp("crab") / "crab.bttt"
    trainer.export(path)
    return bitttt.Model(path)
