"""A session computes what the core computes, to the bit, however the tokens come."""

import hashlib
import json
import os
import subprocess

import bitttt
import numpy as np
import pytest
from conftest import DEMO

# `bitttt generate --model demo/demo.bttt --prompt "Ada Varga" --max-tokens 40 --json`, with --temp 0 and without: the same on
# every machine.
GREEDY = {"tokens_hash": "bc15bf41", "state_hash": "1ca98848"}
WARM = {"tokens_hash": "33a8e68a", "state_hash": "1f7c835a"}


def tokens_hash(tokens):
    import zlib

    return f"{zlib.crc32(np.array(tokens, dtype='<u4').tobytes()):08x}"


@pytest.mark.parametrize("temperature, golden", [(0, GREEDY), (0.8, WARM)])
def test_generation_is_that_of_the_command(session, temperature, golden):
    generation = session.generate("Ada Varga", max_tokens=40, temperature=temperature)
    text = "".join(generation)
    assert tokens_hash(generation.tokens) == golden["tokens_hash"]
    assert session.state_hash == golden["state_hash"]
    assert text == session.model.decode(generation.tokens)


@pytest.mark.skipif("BITTTT_COMMAND" not in os.environ, reason="the command is not built")
def test_generation_is_that_of_the_command_as_built(session):
    arguments = ["--prompt", "Tom Adler", "--max-tokens", "33", "--temp", "0.9", "--seed", "5", "--top-k", "20"]
    command = [os.environ["BITTTT_COMMAND"], "generate", "--model", str(DEMO), "--json", *arguments]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    generation = session.generate("Tom Adler", 33, temperature=0.9, seed=5, top_k=20)
    assert "Tom Adler" + "".join(generation) == report["text"]
    assert generation.tokens == report["tokens"]
    assert session.state_hash == report["state_hash"]


def test_step_prefill_and_forward_give_the_same_bits(demo, story):
    stepped, read, whole = (bitttt.Session(demo) for _ in range(3))
    logits = np.stack([stepped.step(token) for token in story])
    rows = whole.forward(story)
    assert rows.shape == (len(story), demo.vocab_size) and rows.dtype == np.float32
    assert (logits.view(np.uint32) == rows.view(np.uint32)).all()
    assert (read.prefill(story) == logits[-1]).all()
    assert stepped.state_hash == read.state_hash == whole.state_hash
    assert stepped.position == len(story)
    assert hashlib.sha256(logits.tobytes()).hexdigest() == "56da02b3f458a404b9e06a18166b849fa0b43cc365e838f5e1caacd29c55e467"


@pytest.mark.parametrize("backend", bitttt.backends())
@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 7, "threads": 1}, {"threads": 3}])
def test_neither_backend_nor_batch_nor_threads_change_a_bit(demo, story, backend, options):
    one, other = bitttt.Session(demo), bitttt.Session(demo, backend=backend, **options)
    assert (one.forward(story) == other.forward(story)).all()
    assert one.state_hash == other.state_hash
    assert other.backend == backend


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.int32, np.uint16, np.uint64])
def test_tokens_come_as_arrays_of_any_integers(demo, story, dtype):
    array = np.array(story, dtype=dtype)
    one, other = bitttt.Session(demo), bitttt.Session(demo)
    assert (one.prefill(story) == other.prefill(array)).all()
    assert (one.prefill(story[::2]) == other.prefill(array[::2])).all()
    assert (one.step(story[3]) == other.step(array[3])).all()
    assert (one.forward(tuple(story)) == other.forward(array)).all()


def test_step_writes_into_the_caller_s_array(demo, story):
    one, other = bitttt.Session(demo), bitttt.Session(demo)
    buffer = np.empty(demo.vocab_size, dtype=np.float32)
    for token in story:
        assert one.step(token, out=buffer) is buffer
        assert (buffer == other.step(token)).all()
    assert one.prefill(story, out=buffer) is buffer
    assert (buffer == other.prefill(story)).all()


def test_a_later_call_changes_no_logits(session, story):
    first = session.step(story[0])
    copy = first.copy()
    session.prefill(story[1:])
    assert (first == copy).all()


def test_a_snapshot_goes_on_to_the_same_bits(demo, story):
    one, other = bitttt.Session(demo), bitttt.Session(demo, batch=3)
    one.prefill(story)
    kept = one.snapshot()
    assert isinstance(kept, bytes)
    expected, state = one.step(5), one.state_hash
    other.restore(kept)
    assert other.position == len(story)
    assert (other.step(5) == expected).all() and other.state_hash == state
    one.restore(bytearray(kept))
    assert (one.step(5) == expected).all()


def test_a_reset_session_is_a_new_one(demo, session, story):
    fresh = session.state_hash
    first = session.prefill(story)
    assert session.state_hash != fresh
    session.reset()
    assert (session.position, session.state_hash) == (0, fresh)
    assert (session.prefill(story) == first).all()


def test_a_frozen_session_reads_without_learning(demo, story):
    learning, frozen = bitttt.Session(demo), bitttt.Session(demo, learning=False)
    assert learning.learning and not frozen.learning
    a, b = learning.prefill(story), frozen.prefill(story)
    assert (a != b).any()
    frozen.learn()
    assert frozen.learning
    frozen.freeze()
    assert not frozen.learning


def test_a_closed_session_says_so(session):
    with session as same:
        assert same is session
        same.step(1)
    for call in (lambda: session.step(1), lambda: session.position, session.snapshot, lambda: session.generate("a")):
        with pytest.raises(bitttt.InputError, match="closed"):
            call()
    assert "closed" in repr(session)


def test_a_model_outlives_its_name(story):
    session = bitttt.Session(bitttt.Model(DEMO))
    assert session.prefill(story).shape == (session.model.vocab_size,)
