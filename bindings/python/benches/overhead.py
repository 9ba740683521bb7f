"""What a token costs in Python beyond the Rust loop on the same session, model and tokens.

The Rust loop is `forward` with a batch of one: a step a token and its logits copied, all in Rust. Loops take turns, and the
best of many rounds counts, so that what else the machine does does not.

    python bindings/python/benches/overhead.py [MODEL] [--tokens N] [--rounds N]
"""

import argparse
import time
from pathlib import Path

import bitttt
import numpy as np

DEMO = Path(__file__).resolve().parents[3] / "demo" / "demo.bttt"


def loops(session, tokens):
    """Name and work of each loop; all read as many tokens."""
    numbers, buffer = tokens.tolist(), np.empty(session.model.vocab_size, dtype=np.float32)

    def step_into():
        for token in numbers:
            session.step(token, out=buffer)

    def step():
        for token in numbers:
            session.step(token)

    def generate_tokens():
        # the prompt's token and one less than the others, which are read when they are given out
        for _ in session.generate_tokens(tokens[:1], len(numbers) - 1, temperature=0, stop=[]):
            pass

    def generate():
        for _ in session.generate(tokens[:1], len(numbers) - 1, temperature=0, stop=[]):
            pass

    return {
        "Rust loop": lambda: session.forward(tokens),
        "for token in tokens: session.step(token, out=buffer)": step_into,
        "for token in tokens: session.step(token)": step,
        "for token in session.generate_tokens(...)": generate_tokens,
        "for piece in session.generate(...)": generate,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=DEMO)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=500)
    arguments = parser.parse_args()
    model = bitttt.Model(arguments.model)
    session = bitttt.Session(model, batch=1, threads=1)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, model.vocab_size, arguments.tokens, dtype=np.uint32)
    best = {}
    for _ in range(arguments.rounds):
        for name, work in loops(session, tokens).items():
            session.reset()
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
    rust = best["Rust loop"]
    print(f"{session.backend}, best of {arguments.rounds} rounds of {arguments.tokens} tokens")
    for name, seconds in best.items():
        each, more = seconds / arguments.tokens * 1e6, (seconds - rust) / arguments.tokens * 1e6
        print(f"{each:9.2f} us a token  {more:+6.2f} us  {name}")


if __name__ == "__main__":
    main()
