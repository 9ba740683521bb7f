"""Bad input gets an exception with one line; nothing panics, and the session is left as it was."""

import itertools
import pickle

import bitttt
import numpy as np
import pytest
from conftest import DEMO, small

BLOB = DEMO.read_bytes()


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message and "internal error" not in message
    return message


def test_errors_are_what_python_s_users_catch():
    assert issubclass(bitttt.InputError, (ValueError,)) and issubclass(bitttt.InputError, bitttt.BitttError)
    assert issubclass(bitttt.FileError, (OSError,)) and issubclass(bitttt.FileError, bitttt.BitttError)
    error = bitttt.FileError("no")
    assert str(pickle.loads(pickle.dumps(error))) == "no"
    assert type(error).__module__ == "bitttt"


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda b: b"", "is empty"),
        (lambda b: b[:40], "model"),
        (lambda b: b[: len(b) // 2], "model"),
        (lambda b: b"GGUF" + b[4:], "model"),
        (lambda b: b[:-200] + bytes(200), "model"),
        (lambda b: b[:300] + bytes([b[300] ^ 255]) + b[301:], "checksum"),
        (lambda b: bytes(1000), "model"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, damage, words):
    path = tmp_path / "bad.bttt"
    path.write_bytes(damage(BLOB))
    with pytest.raises(bitttt.FileError, match=words) as error:
        bitttt.Model(path)
    assert "bad.bttt" in one_line(error)


def test_damaged_weights_are_found_or_on_request_let_through(tmp_path):
    path = tmp_path / "bad.bttt"
    at = len(BLOB) // 2
    path.write_bytes(BLOB[:at] + bytes([BLOB[at] ^ 1]) + BLOB[at + 1 :])
    with pytest.raises(bitttt.FileError) as error:
        bitttt.Model(path)
    one_line(error)
    session = bitttt.Session(bitttt.Model(path, verify=False))
    assert np.isfinite(session.forward([1, 2, 3])).all()


@pytest.mark.parametrize("path", ["no/such/file.bttt", "", "nul\0.bttt", "."])
def test_files_that_are_not_there(path):
    with pytest.raises((bitttt.FileError, ValueError)) as error:
        bitttt.Model(path)
    one_line(error)


def test_a_session_is_left_as_it_was(demo, session):
    session.prefill([1, 2, 3])
    before = session.state_hash
    many = list(range(300))
    for tokens in ([], [1, 2, demo.vocab_size], [-1], [2**40], many + [2**31], np.array([2**63], dtype=np.uint64)):
        for call in (session.prefill, session.forward, session.generate_tokens):
            with pytest.raises(bitttt.InputError) as error:
                call(tokens)
            one_line(error)
    for token in (-1, demo.vocab_size, 2**40, 2**70):
        with pytest.raises(bitttt.InputError, match=f"token {token} is out of range") as error:
            session.step(token)
        one_line(error)
    assert (session.position, session.state_hash) == (3, before)


@pytest.mark.parametrize("tokens", [[1.5], np.zeros(3), ["a"], [None], [True], {1: 2}, object(), b"ab", 1 + 2j])
def test_tokens_of_wrong_types_are_type_errors(session, tokens):
    for call in (session.prefill, session.forward, session.generate_tokens):
        with pytest.raises((TypeError, ValueError)) as error:
            call(tokens)
        one_line(error)
    with pytest.raises(TypeError):
        session.step(tokens)
    assert session.position == 0


def test_tokens_of_wrong_shapes_are_refused(session):
    for tokens in (5, np.int64(5), [[1, 2], [3, 4]], np.zeros((2, 0), dtype=int), np.zeros((0, 4), dtype=int)):
        with pytest.raises(bitttt.InputError, match="one dimension") as error:
            session.prefill(tokens)
        one_line(error)
    with pytest.raises(ValueError):
        session.prefill([[1, 2], [3]])


def test_places_for_logits_of_wrong_kinds_are_refused_before_reading(demo, session):
    v = demo.vocab_size
    locked = np.zeros(v, dtype=np.float32)
    locked.flags.writeable = False
    places = [
        np.zeros(v),
        np.zeros(v, dtype=np.float16),
        np.zeros(v - 1, dtype=np.float32),
        np.zeros((1, v), dtype=np.float32),
        np.zeros(2 * v, dtype=np.float32)[::2],
        np.zeros(4 * v + 1, dtype=np.uint8)[1:].view(np.float32),
        locked,
        [0.0] * v,
        "out",
    ]
    for place in places:
        for call in (session.step, session.prefill):
            with pytest.raises(bitttt.InputError, match=f"array of {v} float32") as error:
                call(1 if call == session.step else [1], out=place)
            one_line(error)
    assert session.position == 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"threads": 0}, "threads = 0"),
        ({"threads": 10**6}, "threads"),
        ({"backend": "gpu"}, "scalar"),
        ({"batch": 10**12}, "memory"),
        ({"batch": 2**63}, "memory"),
    ],
)
def test_impossible_sessions_are_refused(demo, options, words):
    with pytest.raises(bitttt.InputError, match=words) as error:
        bitttt.Session(demo, **options)
    one_line(error)


def test_arguments_of_wrong_types_are_python_s_own_errors(demo, session):
    for call in (
        lambda: bitttt.Session("demo.bttt"),
        lambda: bitttt.Session(demo, 1),
        lambda: bitttt.Session(demo, threads="two"),
        lambda: bitttt.Model(),
        lambda: bitttt.Model(5),
        lambda: demo.encode(5),
        lambda: demo.encode("\ud800"),
        lambda: session.generate(None),
        lambda: session.generate("a", "many"),
        lambda: session.generate("a", stop=[1.5]),
        lambda: session.generate("a", -1),
        lambda: session.generate("a", seed=-1),
        lambda: session.restore("text"),
        lambda: session.restore(5),
        lambda: bitttt.Trainer("config"),
        lambda: bitttt.Generation(),
    ):
        with pytest.raises((TypeError, ValueError, OverflowError)) as error:
            call()
        assert "internal error" not in str(error.value)
    assert session.position == 0


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda s: b"", "snapshot"),
        (lambda s: s[:-1], "cut short"),
        (lambda s: s + b"\0", "too long"),
        (lambda s: b"GGUF" + s[4:], "not a snapshot"),
        (lambda s: s[:100] + bytes([s[100] ^ 1]) + s[101:], "checksum"),
    ],
)
def test_bad_snapshots_are_refused_and_change_nothing(session, damage, words):
    session.prefill([1, 2, 3])
    before = session.state_hash
    with pytest.raises(bitttt.InputError, match=words) as error:
        session.restore(damage(session.snapshot()))
    one_line(error)
    assert (session.position, session.state_hash) == (3, before)


def test_a_snapshot_of_another_model_is_refused(session, without_text):
    with pytest.raises(bitttt.InputError, match="belongs to model"):
        session.restore(bitttt.Session(without_text).snapshot())


def test_a_full_context_says_what_to_do(without_text):
    session = bitttt.Session(without_text)
    session.prefill([1] * 39)
    for call in (session.prefill, session.forward):
        with pytest.raises(bitttt.InputError, match="room for 40 tokens, 39 are read.*larger context") as error:
            call([1, 2])
        one_line(error)
    assert session.position == 39
    session.step(1)
    with pytest.raises(bitttt.InputError, match="room for 40"):
        session.step(1)
    assert bitttt.Session(without_text, context=500).forward([1] * 500).shape == (500, 31)
    generation = bitttt.Session(without_text).generate_tokens([1] * 38, 10, stop=[])
    with pytest.raises(bitttt.InputError, match="room for 40"):
        list(generation)
    assert len(generation.tokens) == 2


def test_tokens_to_decode_are_checked(demo):
    for tokens in ([demo.vocab_size], np.array([demo.vocab_size], dtype=np.uint32), [-1]):
        with pytest.raises(bitttt.InputError, match="out of range"):
            demo.decode(tokens)
    assert demo.decode([]) == ""


ODD = [
    None, True, -1, 0, 3, 2**31, 2**32, 2**63, 2**64, -(2**70), 1.5, float("nan"), float("inf"), 1j, "", "a", "\ud800", b"", b"BTTS" + bytes(40),
    [], [1], [-1], [2**70], [None], [[1, 2], [3]], (), {}, {1, 2}, {"a": 1}, object(), int, len, np.zeros(0), np.zeros((2, 3), dtype=int),
    np.array(5), np.array([1], dtype=">i4"), np.array(["a"]), np.array([1], dtype=object), np.ma.array([1, 2]), np.datetime64("2020-01-01"),
]  # fmt: skip


def test_nothing_panics_whatever_is_passed(demo):
    session, trainer = bitttt.Session(demo), bitttt.Trainer(small())
    generation = session.generate_tokens([1], 3)
    calls = [bitttt.Model, bitttt.Session, bitttt.Config, bitttt.Trainer, bitttt.Generation, bitttt.Config.load, bitttt.Trainer.load]
    keywords = {
        bitttt.Session: ("batch", "context", "threads", "learning", "backend"),
        bitttt.Config: ("hidden_dim", "num_layers", "inner_lr", "train", "mixer", "mixers", "n_heads", "context"),
        bitttt.Trainer: ("device", "tokenizer"),
    }
    for thing in (demo, session, generation, trainer):
        calls += [getattr(thing, n) for n in dir(thing) if callable(getattr(thing, n)) and not n.startswith("_")]
    calls = [call for call in calls if call not in (session.close, trainer.save, trainer.export)]  # which take any path
    first = {bitttt.Session: demo, bitttt.Config: 9, bitttt.Trainer: small()}

    def attempt(call, *arguments, **named):
        try:
            call(*arguments, **named)
        except (TypeError, ValueError, OverflowError, MemoryError, bitttt.BitttError) as error:
            assert "internal error" not in str(error), (call, arguments, named)

    for call in calls:
        attempt(call)
        for a in ODD:
            attempt(call, a)
        for a, b in itertools.product(ODD[::3], ODD[::2]):
            attempt(call, a, b)
        for name, a in itertools.product(keywords.get(call, ()), ODD):
            attempt(call, first[call], **{name: a})
    assert session.step(1).shape == (demo.vocab_size,)
