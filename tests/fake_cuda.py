"""Tensors that are on `cuda:0` as far as Python can tell, without a GPU: they have a type and a shape, but no numbers.

Torch raises where two of them that meet are on different devices, and `Waits` counts where the host waits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")

SCALARS = (torch.ops.aten.scalar_tensor.default,)  # without axes, which may lie anywhere


class Mode(FakeTensorMode):
    """`FakeTensorMode` whose tensors C++ believes to be on `meta`; a new one there is for `CUDA`."""

    avoid_device_init = True

    def __deepcopy__(self, memo):
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (kwargs or {}).get("device") == torch.device("meta"):
            kwargs = kwargs | {"device": torch.device("cpu") if func in SCALARS else CUDA}
        return super().__torch_dispatch__(func, types, args, kwargs)


class Waits(TorchDispatchMode):
    """Notes each operation that makes the host wait for the device, such as `.item()`, `.cpu()` and a blocking copy.

    A number that is read is 1; torch itself raises where a shape depends on numbers.
    """

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name == "_local_scalar_dense":
            if given[0].device == CUDA:
                self.seen.append(name)
                return 1
            try:
                return func(*args, **(kwargs or {}))  # of a constant
            except DataDependentOutputException:
                return 1
        if name == "arange" and kwargs.get("device", torch.device("cpu")).type == "cpu":
            with _disable_current_modes():  # asteroid reads one with `tolist`
                return func(*args, **kwargs)
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in (*given, *made) if any(x.stride())}  # one number alone waits for nobody
        asynchronous = (kwargs or {}).get("non_blocking") and all(x.device == CUDA for x in made)
        if len(devices) > 1 and not asynchronous:
            self.seen.append(name)
        if name in ("bmm", "baddbmm", "mm", "addmm", "convolution"):
            self.products.add(given[0].dtype)
        return out


def fake_card(patch: pytest.MonkeyPatch, locks: Path, free: Callable[[], float], empty=lambda: None) -> None:
    """Let torch tell of a card whose lock lies in `locks`, with so many bytes `free`, and with this `empty_cache`."""
    patch.setenv("FLOWSEP_DATA", str(locks))
    patch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1f0c"))
    patch.setattr(torch.cuda, "mem_get_info", lambda _: (free(), 80 * 10**9))
    patch.setattr(torch.cuda, "empty_cache", empty)
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    patch.setattr(torch.random, "fork_rng", lambda _: nullcontext())


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within it a tensor may be on `CUDA`.

    To the C++ side of torch it is on the device `meta`: autograd there would ask a build without CUDA for streams. So
    autocast, which is C++ too, does nothing here.
    """
    mode, make, swap = Mode(allow_non_fake_inputs=True), torch.Tensor._make_subclass, torch.utils.swap_tensors
    invert, generate, move = torch.linalg.inv, torch.Generator, torch.Tensor.to

    def make_subclass(kind, data, requires_grad=False, *, dispatch_device=False, **more):
        return make(kind, data, requires_grad, **more)

    def swap_tensors(one, other):  # of `Module.to`; it refuses tensors that the mode remembers
        mode.fake_tensor_converter.tensor_memo.clear()
        swap(one, other)

    def inv(matrix):  # looks whether there is one, but not on `meta`
        if matrix.device == CUDA:
            matrix.sum().item()
        return invert(matrix)

    def to(tensor, *where, **more):  # `where` may be another tensor, whose device C++ would not see
        where = (where[0].device, where[0].dtype) if where and isinstance(where[0], torch.Tensor) else where
        return move(tensor, *where, **more)

    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(torch.Tensor, "_make_subclass", staticmethod(make_subclass))
        patch.setattr(torch.utils, "swap_tensors", swap_tensors)
        patch.setattr(torch.Tensor, "to", to)
        patch.setattr(torch.linalg, "inv", inv)
        patch.setattr(torch, "Generator", lambda device="cpu": generate())
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * 10**9, 80 * 10**9))
        yield
