"""Factories called without a device are found wherever the package calls them, and nothing else is disturbed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest
import torch
from device_exceptions import FUNCTIONS, ROOMS
from device_watch import DeviceMissing, unused_exceptions
from torch._subclasses.fake_tensor import FakeTensorMode

TOY = """
import torch
from torch import nn

def at_once(**options): return torch.zeros(3, **options)
def in_a_list(**options): return [torch.arange(n, **options) for n in (1, 2)]
def in_a_function(**options): return (lambda: torch.tensor([1.0], **options))()
def hidden():
    try:
        return at_once()
    except Exception:  # as code that is watched may have it; the watch has to pass it
        return None
def converted(x): return torch.as_tensor(x)
def drawn(generator): return torch.rand(2, generator=generator)

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("counts", at_once())
    def forward(self, x):
        return x + torch.ones(3)
"""


def module_called(name: str) -> Any:
    module: Any = ModuleType(name)
    exec(TOY, vars(module))
    return module


@pytest.fixture
def toy() -> Any:
    return module_called("wvq.toy")


@pytest.mark.parametrize("function", ["at_once", "in_a_list", "in_a_function"])
def test_a_factory_needs_a_device(toy: Any, function: str) -> None:
    call: Callable[..., Any] = getattr(toy, function)
    with pytest.raises(DeviceMissing, match=rf"wvq\.toy\.{function}, line \d+: torch\.\w+ without a device"):
        call()
    with pytest.raises(DeviceMissing):
        call(device=None)
    call(device="cpu")
    with torch.device("cpu"):
        call()
    getattr(module_called("other.toy"), function)()


def test_the_package_cannot_hide_it(toy: Any) -> None:
    with pytest.raises(DeviceMissing):
        toy.hidden()


def test_what_has_a_device_needs_no_other(toy: Any) -> None:
    toy.converted(torch.zeros(2))
    with pytest.raises(DeviceMissing):
        toy.converted([0.0])
    toy.drawn(torch.Generator())
    with pytest.raises(DeviceMissing):
        toy.drawn(None)


def test_a_module_may_be_made_on_the_cpu_but_not_run_there(toy: Any) -> None:
    layer = toy.Layer()
    with pytest.raises(DeviceMissing, match=r"wvq\.toy\.Layer\.forward"):
        layer(torch.zeros(3))


def test_a_room_is_excepted_with_all_below_it() -> None:
    (room,) = ROOMS
    module_called(f"{room}.toy").at_once()
    with pytest.raises(DeviceMissing):
        module_called(f"{room}_toy").at_once()


def test_processes_that_are_started_are_watched() -> None:
    code = f"import types\nm = types.ModuleType('wvq.toy')\nexec({TOY!r}, vars(m))\nm.at_once({{}})"
    for option, expected in (("device='cpu'", 0), ("", 1)):
        done = subprocess.run([sys.executable, "-c", code.format(option)], capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        assert ("DeviceMissing" in done.stderr) == bool(expected)


def test_exceptions_are_functions_of_the_package() -> None:
    for name in (*FUNCTIONS, *ROOMS):
        resolve_name(name)


def test_exceptions_that_no_process_used_are_named(tmp_path: Path) -> None:
    first, *others = sorted(FUNCTIONS)
    assert unused_exceptions(tmp_path / "none") == sorted([*FUNCTIONS, *ROOMS])
    (tmp_path / "used").write_text("\n".join([*others, *ROOMS]))
    assert unused_exceptions(tmp_path / "used") == [first]


def made(n: int):
    return torch.zeros(n) + torch.arange(n) + torch.tensor(1.0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_what_looks_into_functions_finds_torchs_own() -> None:
    expected = made(3)
    assert torch.equal(torch.jit.script(made)(3), expected)
    assert torch.equal(torch.compile(made, backend="eager", fullgraph=True)(3), expected)
    assert torch.equal(torch.vmap(lambda x: x + made(3))(torch.zeros(1, 3))[0], expected)
    with FakeTensorMode():
        assert made(3).shape == (3,)
    with torch.device("meta"):
        assert made(3).is_meta
