"""The stubs name what is there, with the arguments that it takes."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import bitttt
import pytest

PACKAGE = Path(bitttt.__file__).parent
STUBS = ast.parse((PACKAGE / "__init__.pyi").read_text())
CLASSES = {n.name: n for n in STUBS.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")}


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_stubs_name_what_the_module_exports():
    functions = {node.name for node in STUBS.body if isinstance(node, ast.FunctionDef)}
    assert functions | set(CLASSES) == set(bitttt.__all__)
    public = {name for name in vars(bitttt) if not name.startswith("_")}
    assert public == set(bitttt.__all__)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_stubs_name_every_member_and_its_arguments(name):
    runtime, stub = getattr(bitttt, name), CLASSES[name]
    members = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    if issubclass(runtime, Exception):
        return
    there = {n for n, value in vars(runtime).items() if not n.startswith("_") or n in special(runtime)}
    assert set(members) - {"__init__"} == there - {"__new__"}
    for member, node in members.items():
        decorators = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
        value = inspect.getattr_static(runtime, member, None)
        assert ("property" in decorators) == inspect.isgetsetdescriptor(value), member
        if "property" not in decorators and not member.startswith("__"):
            assert arguments(node) == signature(getattr(runtime, member)), member
    if "__init__" in members and sys.version_info >= (3, 10):  # before, classes have no signature
        assert arguments(members["__init__"]) == signature(runtime)


def test_help_says_what_calls_do():
    for runtime in (bitttt.Model, bitttt.Session, bitttt.Config, bitttt.Trainer):
        assert runtime.__doc__
        methods = [value for name, value in vars(runtime).items() if not name.startswith("_") and callable(value)]
        assert methods and all(method.__doc__ for method in methods)


def special(runtime):
    return {"__enter__", "__exit__", "__iter__", "__next__"} & set(vars(runtime))


def arguments(node):
    """Names of a stub's arguments and which of them have defaults."""
    a = node.args
    positional = [argument.arg for argument in a.posonlyargs + a.args if argument.arg != "self"]
    required = len(positional) - len(a.defaults)
    found = {name: i >= required for i, name in enumerate(positional)}
    found |= {argument.arg: default is not None for argument, default in zip(a.kwonlyargs, a.kw_defaults)}
    return found | ({a.kwarg.arg: False} if a.kwarg else {})


def signature(callable):
    parameters = inspect.signature(callable).parameters.values()
    return {p.name: p.default is not p.empty for p in parameters if p.name != "self"}


def test_a_type_checker_accepts_the_stubs(tmp_path):
    pytest.importorskip("mypy", reason="no type checker here")
    program = tmp_path / "program.py"
    program.write_text(
        """
import bitttt
import numpy as np

model = bitttt.Model("demo.bttt")
with bitttt.Session(model, batch=4, learning=False) as session:
    out = np.empty(model.vocab_size, dtype=np.float32)
    session.step(3, out=out)
    rows: np.ndarray = session.forward(np.arange(3))
    text: str = "".join(session.generate("a", 3, stop=["end", 5]))
    tokens: "list[int]" = list(session.generate_tokens([1], 3))
    session.restore(session.snapshot())
config = bitttt.Config(100, hidden_dim=64, n_heads=2, train={"lr": 0.01})
trainer = bitttt.Trainer(config, device="cpu")
loss: float = trainer.train_step(np.zeros((2, 8), dtype=int))
"""
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], capture_output=True, text=True, cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    program.write_text("import bitttt\nbitttt.Model(5).no_such_thing\n")
    wrong = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], capture_output=True, text=True, cwd=tmp_path
    )
    assert wrong.returncode == 1 and "no_such_thing" in wrong.stdout
