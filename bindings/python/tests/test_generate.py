"""Generation: pieces, tokens, where it ends, and what the session has read."""

import bitttt
import numpy as np
import pytest


def test_pieces_come_one_by_one_and_join_to_the_text(session):
    generation = session.generate("Ada Varga", max_tokens=20, temperature=0)
    assert iter(generation) is generation
    first = next(generation)
    assert first and len(generation.tokens) < 20
    text = first + "".join(generation)
    assert len(generation.tokens) == 20 and generation.finish_reason == "length"
    assert text == session.model.decode(generation.tokens)
    assert next(generation, None) is None


def test_every_piece_has_been_read(demo, session):
    generation = session.generate("Ada Varga", max_tokens=8, temperature=0)
    before = session.position
    assert before == generation.prompt_tokens == 1 + len(demo.encode("Ada Varga"))
    for piece in generation:
        assert session.position == before + len(generation.tokens)
    other = bitttt.Session(demo)
    other.prefill([demo.document_token] + demo.encode("Ada Varga") + generation.tokens)
    assert other.state_hash == session.state_hash


def test_tokens_make_the_same_as_text(demo, session):
    prompt = [demo.document_token] + demo.encode("Ada Varga")
    text = session.generate("Ada Varga", 20, seed=3)
    assert "".join(text)
    other = bitttt.Session(demo)
    tokens = other.generate_tokens(np.array(prompt), 20, seed=3)
    assert list(tokens) == text.tokens == tokens.tokens
    assert tokens.finish_reason == text.finish_reason


def test_characters_split_over_tokens_come_whole(crab):
    session = bitttt.Session(crab)
    generation = session.generate("日", 28, temperature=0)
    pieces = list(generation)
    assert "".join(pieces) == "🦀日" * 4  # four bytes and three, a token each
    assert pieces == list("🦀日" * 4)
    cut = bitttt.Session(crab).generate("日", 5, temperature=0)
    assert list(cut) == ["🦀", "\ufffd"]  # nothing comes to complete it
    assert crab.decode(generation.tokens[:5]) == "🦀\ufffd"


def test_seeds_decide(demo):
    def made(**options):
        return "".join(bitttt.Session(demo).generate("Ada", 30, **options))

    assert made(seed=1) == made(seed=1) != made(seed=2)
    assert made(temperature=0) == made(top_k=1, seed=9)
    assert made(top_p=1e-6, seed=3) == made(temperature=0)


def test_it_stops_at_tokens_and_strings(demo):
    whole = bitttt.Session(demo).generate("Ada Varga", 60, temperature=0, stop=[])
    text = "".join(whole)
    assert len(whole.tokens) == 60
    at = text.index(".")
    for stop in (".", [".", "unseen"], [demo.encode("x")[0], text[at : at + 4]]):
        session = bitttt.Session(demo)
        generation = session.generate("Ada Varga", 60, temperature=0, stop=stop)
        assert "".join(generation) == text[:at]
        assert generation.finish_reason == "stop"
        assert next(generation, None) is None
    token = whole.tokens[5]
    first = whole.tokens.index(token)
    generation = bitttt.Session(demo).generate_tokens(demo_prompt(demo), 60, temperature=0, stop=token)
    assert list(generation) == whole.tokens[:first]
    assert generation.finish_reason == "stop"


def demo_prompt(demo):
    return [demo.document_token] + demo.encode("Ada Varga")


def test_no_piece_holds_the_beginning_of_a_stop_string_that_comes(demo):
    whole = "".join(bitttt.Session(demo).generate("Ada Varga", 60, temperature=0, stop=[]))
    stop = whole[20:32]
    pieces = list(bitttt.Session(demo).generate("Ada Varga", 60, temperature=0, stop=stop))
    assert "".join(pieces) == whole[: whole.index(stop)]


def test_it_goes_on_where_the_session_is(demo, session):
    "".join(session.generate("Ada Varga", 10, temperature=0))
    position = session.position
    generation = session.generate(" said", 5)
    assert generation.prompt_tokens == len(demo.encode(" said"))  # no document token in the middle
    assert session.position == position + generation.prompt_tokens


def test_a_session_used_meanwhile_ends_it_with_an_error(session):
    generation = session.generate("Ada Varga", 10)
    next(generation)
    session.snapshot()  # changes nothing
    next(generation)
    session.step(1)
    with pytest.raises(bitttt.InputError, match="used since the last token"):
        next(generation)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"temperature": -1}, "temperature = -1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"stop": ""}, "stop string is empty"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(session, options, words):
    with pytest.raises(bitttt.InputError, match=words):
        session.generate("Ada", **options)
    assert session.position == 0


def test_a_model_without_text_makes_tokens(without_text):
    session = bitttt.Session(without_text)
    with pytest.raises(bitttt.InputError, match="no tokenizer"):
        session.generate([1, 2, 3])
    with pytest.raises(bitttt.InputError, match="no tokenizer"):
        without_text.encode("text")
    with pytest.raises(bitttt.InputError, match="stop at strings"):
        session.generate_tokens([1, 2, 3], stop="end")
    assert session.position == 0
    tokens = list(session.generate_tokens([1, 2, 3], 9, stop=[]))
    assert len(tokens) == 9 and max(tokens) < 31
    assert not without_text.has_tokenizer
