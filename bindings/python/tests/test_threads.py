"""Threads, and interrupts: computing holds no interpreter lock, and Ctrl-C gets through."""

import os
import signal
import subprocess
import sys
import threading
import time

import bitttt
import numpy as np
import pytest
from conftest import DEMO, small


def in_threads(count, work):
    results, threads = [None] * count, []
    for i in range(count):
        def run(i=i):
            results[i] = work(i)

        threads.append(threading.Thread(target=run))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_sessions_in_threads_compute_what_they_compute_alone(demo, story):
    alone = bitttt.Session(demo)
    alone.prefill(story * 3)

    def work(i):
        session = bitttt.Session(demo, threads=1 + i % 3)
        for token in story:
            session.step(token)
        session.prefill(story * 2)
        return session.state_hash

    assert set(in_threads(6, work)) == {alone.state_hash}


def test_computing_leaves_the_interpreter_to_others(demo, story):
    """While one thread computes, this one counts; if the lock were held, it could not."""
    session = bitttt.Session(demo, threads=1)
    tokens = np.tile(np.array(story, dtype=np.uint32), 200)
    session.prefill(story)
    done = threading.Event()

    def work():
        session.prefill(tokens)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    thread.join()
    assert turns > 20


def test_a_session_has_one_user_at_a_time(demo, story):
    session = bitttt.Session(demo, threads=1)
    tokens = np.tile(np.array(story, dtype=np.uint32), 100)
    thread = threading.Thread(target=session.prefill, args=(tokens,))
    thread.start()
    refused = None
    while thread.is_alive() and refused is None:
        try:
            session.state_hash
        except bitttt.InputError as error:
            refused = str(error)
    thread.join()
    assert refused is not None and "in use by another thread" in refused
    assert session.position == len(tokens)
    threading.Thread(target=session.step, args=(1,)).start()  # another thread may have it afterwards


def test_a_session_is_finished_by_another_thread_than_it_was_begun_in(demo, story):
    session, other = bitttt.Session(demo), bitttt.Session(demo)
    session.prefill(story)
    [logits] = in_threads(1, lambda _: session.step(7))
    other.prefill(story)
    assert (logits == other.step(7)).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_goes_on(demo, story):
    session = bitttt.Session(demo, threads=3)
    session.prefill(story)
    expected = bitttt.Session(demo)
    expected.prefill(story * 2)
    pid = os.fork()
    if pid == 0:
        session.prefill(story)
        os._exit(session.state_hash != expected.state_hash)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


LOOPS = {
    "generate": "''.join(session.generate('Ada', 10**9, stop=[]))",
    "generate_tokens": "list(session.generate_tokens([1], 10**9, stop=[]))",
    "prefill": "session.prefill(np.ones(10**7, dtype=np.uint32))",
    "forward": "session.forward(np.ones(4 * 10**5, dtype=np.uint32))",
    "step": "while True: session.step(1)",
    "train_step": "while True: trainer.train_step(np.ones((4, 64), dtype=int), lr=1e-4)",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_gets_through(loop):
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
import bitttt, numpy as np
session = bitttt.Session(bitttt.Model({str(DEMO)!r}), threads=1)
trainer = bitttt.Trainer(bitttt.Config(31, 32, 2, n_heads=2))
print("ready", flush=True)
try:
    {LOOPS[loop]}
except KeyboardInterrupt:
    session.step(1)
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()  # a loop that did not hear it would go on
    assert out == "stopped\n" and process.returncode == 0


def test_trainers_in_threads_do_not_meet(rows):
    def work(_):
        trainer = bitttt.Trainer(small())
        return [trainer.train_step(rows) for _ in range(3)]

    first, *others = in_threads(3, work)
    assert all(other == first for other in others)
