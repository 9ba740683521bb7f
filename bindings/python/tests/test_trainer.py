"""The trainer: it learns, is saved and loaded to the same bits, and exports what sessions run."""

import os

import bitttt
import numpy as np
import pytest
from conftest import small


def test_training_lowers_the_loss_and_the_model_runs(rows, tmp_path):
    trainer = bitttt.Trainer(small())
    losses = [trainer.train_step(rows) for _ in range(60)]
    assert losses[0] > 3 and losses[-1] < 0.5
    assert trainer.step == 60 and trainer.parameters > 10_000
    report = trainer.export(tmp_path / "model.bttt")
    model = bitttt.Model(tmp_path / "model.bttt")
    assert report["fingerprint"] == model.fingerprint and report["bytes"] == model.nbytes
    assert model.config["d_model"] == 32 and model.vocab_size == 31
    assert [layer["mixer"] for layer in model.config["layers"]] == ["ttt-linear"] * 2
    logits = bitttt.Session(model).forward(rows[0])
    assert (logits.argmax(1)[4:-1] == rows[0][5:]).mean() > 0.9
    smaller = trainer.export(tmp_path / "small.bttt", weights="t5", compact=True)
    assert smaller["bytes"] < report["bytes"]


def test_a_saved_trainer_goes_on_to_the_same_losses(rows, tmp_path):
    one = bitttt.Trainer(small())
    for _ in range(5):
        one.train_step(rows)
    one.save(tmp_path / "run")
    other = bitttt.Trainer.load(tmp_path / "run")
    assert other.step == 5 and other.config == one.config
    assert [one.train_step(rows) for _ in range(3)] == [other.train_step(rows) for _ in range(3)]
    again = bitttt.Trainer.load(tmp_path / "run")
    again.export(tmp_path / "model.bttt")  # compared on the rows that were saved


def test_a_tokenizer_goes_with_the_model(tmp_path):
    trainer = bitttt.Trainer(bitttt.Config(0, 32, 1, n_heads=1), tokenizer="bytes")
    assert trainer.config.vocab_size == 257
    trainer.train_step(np.frombuffer(b"Ada Varga opened the door.", dtype=np.uint8) + np.int64(1))
    trainer.save(tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer.json").exists()
    bitttt.Trainer.load(tmp_path / "run").export(tmp_path / "model.bttt")
    model = bitttt.Model(tmp_path / "model.bttt")
    assert model.encode("Ab") == [66, 99]
    assert "trained_steps" in model.metadata


def test_targets_are_the_tokens_that_follow_unless_given(rows):
    one, other, masked = (bitttt.Trainer(small()) for _ in range(3))
    expected = one.train_step(rows)
    assert other.train_step(rows[:, :-1], rows[:, 1:]) == expected
    targets = rows[:, 1:].copy()
    targets[:, ::2] = -100
    assert masked.train_step(rows[:, :-1], targets) != expected
    single = bitttt.Trainer(small())
    assert single.train_step(list(rows[0]), None, lr=0.0) == single.train_step(rows[:1], lr=0.0)


def test_the_schedule_ends_and_a_rate_of_one_s_own_goes_on(rows):
    trainer = bitttt.Trainer(small(steps=2))
    trainer.train_step(rows)
    trainer.train_step(rows)
    with pytest.raises(bitttt.InputError, match="all 2 steps"):
        trainer.train_step(rows)
    assert trainer.train_step(rows, lr=1e-3) > 0
    assert trainer.step == 3


@pytest.mark.parametrize(
    "tokens, targets, words",
    [
        ([[1, 2, 31]], None, "token 31 is out of range"),
        ([[1, 2, -3]], None, "token -3 is out of range"),
        ([[1]], None, "at least two tokens"),
        ([], None, "at least two tokens"),
        (np.zeros((0, 5), dtype=int), None, "at least one row"),
        (np.zeros((2, 2, 2), dtype=int), None, "3 dimensions"),
        (3, None, "0 dimensions"),
        ([1, 2, 3], [1, 2], "a target for each token"),
        ([1, 2, 3], [1, 2, 31], "token 31"),
        ([1, 2, 3], [-1, -1, -1], "no target counts"),
        (np.zeros((0, 3), dtype=int), np.zeros((0, 3), dtype=int), "no target counts"),
    ],
)
def test_impossible_batches_are_refused(rows, tokens, targets, words):
    trainer = bitttt.Trainer(small())
    with pytest.raises(bitttt.InputError, match=words):
        trainer.train_step(tokens, targets)
    for lr in (-1.0, float("nan")):
        with pytest.raises(bitttt.InputError, match="lr"):
            trainer.train_step(rows, lr=lr)
    with pytest.raises(TypeError, match="integers"):
        trainer.train_step([[1.5, 2.5]])
    assert trainer.step == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(hidden_dim=33), "odd"),
        (dict(hidden_dim=0), "d_model is 0"),
        (dict(num_layers=0), "n_layers is 0"),
        (dict(inner_lr=-1), "ttt_base_lr"),
        (dict(inner_lr=float("nan")), "ttt_base_lr"),
        (dict(n_heads=3), "n_heads"),
        (dict(no_such_field=3), "no_such_field"),
        (dict(mixer="no-such"), "no-such"),
        (dict(d_model=3), "called hidden_dim"),
        (dict(train={"lr": -1}), "train.lr"),
        (dict(train={"learning_rate": 1}), "learning_rate"),
        (dict(train={"lr": float("nan")}), "configuration"),
    ],
)
def test_impossible_configurations_are_refused_by_field(arguments, words):
    with pytest.raises(bitttt.InputError, match=words) as error:
        bitttt.Config(100, **arguments)
    assert "\n" not in str(error.value)


def test_a_configuration_has_everybody_s_names_and_the_trainer_s_fields(tmp_path):
    config = bitttt.Config(100, 64, 3, 0.5, mixer="ttt-lite", train={"lr": 0.01})
    assert (config.vocab_size, config.hidden_dim, config.num_layers, config.inner_lr) == (100, 64, 3, 0.5)
    fields = config.to_dict()
    assert fields["model"]["mixer"] == "ttt-lite" and fields["train"]["lr"] == 0.01
    assert config == bitttt.Config(100, 64, 3, 0.5, mixer="ttt-lite", train={"lr": 0.01})
    assert config != bitttt.Config(100, 64, 3, 0.5)
    path = tmp_path / "config.toml"
    path.write_text("[model]\nvocab_size = 100\nd_model = 64\nn_layers = 3\nn_heads = 2\nd_ffn = 192\n")
    assert bitttt.Config.load(path).to_dict()["model"]["d_ffn"] == 192
    path.write_text("[model]\nd_modle = 3\n")
    with pytest.raises(bitttt.FileError, match="d_modle"):
        bitttt.Config.load(path)


@pytest.mark.parametrize(
    "config, words",
    [
        (dict(vocab_size=0), "vocab_size is 0"),
        (dict(vocab_size=10**7, hidden_dim=2**15), "memory"),
        (dict(vocab_size=10**9, hidden_dim=10**5), "vocab_size"),
        (dict(vocab_size=10, num_layers=2**40), "n_layers"),
    ],
)
def test_impossible_models_are_refused(config, words):
    with pytest.raises(bitttt.InputError, match=words):
        bitttt.Trainer(bitttt.Config(**config))


def test_devices_and_tokenizers_that_are_not_there(tmp_path):
    with pytest.raises(bitttt.InputError, match="neither cpu nor cuda"):
        bitttt.Trainer(small(), device="tpu")
    with pytest.raises(bitttt.InputError, match="cuda|CUDA") as error:
        bitttt.Trainer(small(), device="cuda:99")
    assert "\n" not in str(error.value)
    with pytest.raises(bitttt.InputError, match="cannot read tokenizer"):
        bitttt.Trainer(small(), tokenizer="no/such.json")
    with pytest.raises(bitttt.InputError, match="smaller than the tokenizer"):
        bitttt.Trainer(small(), tokenizer="bytes")


def test_files_that_cannot_be_read_or_written(rows, tmp_path):
    with pytest.raises(bitttt.FileError, match="cannot read"):
        bitttt.Trainer.load(tmp_path / "nothing")
    (tmp_path / "checkpoint.safetensors").write_bytes(os.urandom(100))
    with pytest.raises(bitttt.FileError, match="not a whole checkpoint"):
        bitttt.Trainer.load(tmp_path)
    trainer = bitttt.Trainer(small())
    with pytest.raises(bitttt.InputError, match="train a step first"):
        trainer.export(tmp_path / "model.bttt")
    trainer.train_step(rows)
    file = tmp_path / "file"
    file.write_text("in the way")
    for call in (trainer.save, trainer.export):
        with pytest.raises(bitttt.FileError):
            call(file / "below")
    with pytest.raises(bitttt.InputError, match="t2"):
        trainer.export(tmp_path / "model.bttt", weights="t9")
