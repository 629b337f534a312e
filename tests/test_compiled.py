"""What setup.py has compiled: the modules are there, and those that run are the ones that are asked for."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def named() -> list[str]:
    """The modules of the data path, as setup.py names them."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DATA_PATH":
            return str(ast.literal_eval(node.value)).split()
    raise AssertionError("setup.py names no data path")


def test_every_module_that_is_compiled_is_there() -> None:
    """One that is renamed must be renamed there, too."""
    assert named() == sorted(named())
    assert [name for name in named() if not (ROOT / f"hedgeserve/proxy/{name}.py").exists()] == []


@pytest.mark.parametrize("name", named())
def test_all_of_the_data_path_is_compiled_or_none_of_it(name: str) -> None:
    """A clone never runs what was compiled of an earlier source."""
    tally, module = find_spec("hedgeserve.tally"), find_spec(f"hedgeserve.proxy.{name}")
    assert tally is not None
    assert module is not None
    assert Path(str(module.origin)).suffix == Path(str(tally.origin)).suffix
