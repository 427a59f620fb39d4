"""Lets a command start quickly: model classes are imported without what only training and compiling need.

To import one model class, `transformers` also imports the compiler of PyTorch with a computer algebra system and the
packages for several processes, and reads the source of all its models to list their names.  That takes more CPU time
than answering a question.  `quick_start` defers such packages: their submodules can be imported, but their own code is
executed when one of their other names is used, so that nothing is missing.

Left out: the Python API, training and evaluation, because a program may train and compile in the same process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Unpack


def _unchanged(function: Any = None, *arguments: Any, **options: Any) -> Any:
    """A decorator that marks a function for the compiler, where nothing is compiled; with or without options."""
    return _unchanged if function is None else function


# deferred package or module -> names that imports use, which it has before its code is executed
DEFERRED: dict[str, dict[str, Any]] = {
    "torch._dynamo": dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unchanged),
    "transformers": {},
    "transformers.models": {},
    "transformers.processing_utils": {"Unpack": Unpack},
}
# name -> the submodule of its package that defines it, so that the code of the package is not needed for it
HOMES = {
    "transformers": {
        "AddedToken": "tokenization_utils_base",
        "AutoConfig": "models.auto.configuration_auto",
        "AutoModelForCausalLM": "models.auto.modeling_auto",
        "AutoTokenizer": "models.auto.tokenization_auto",
        "DynamicCache": "cache_utils",
        "GenerationConfig": "generation.configuration_utils",
        "PreTrainedConfig": "configuration_utils",
        "PreTrainedModel": "modeling_utils",
        "PreTrainedTokenizerBase": "tokenization_utils_base",
        "PreTrainedTokenizerFast": "tokenization_utils_tokenizers",
    }
}
# package whose submodules need its code -> those that do not
ALONE = {"torch._dynamo": ("torch._dynamo._trace_wrapped_higher_order_op",)}
UTILITIES = "transformers.utils"


def quick_start() -> None:
    """Defer the packages of `DEFERRED` in this process, from now on.

    Where `transformers` is imported already nothing changes, and neither does it in one of several processes
    (`torchrun`).
    """
    started = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not (started or "transformers" in sys.modules or "WORLD_SIZE" in os.environ):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the deferred packages, and tells `transformers` that there is one process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual specification of a module, with a loader that defers it; None leaves it to the others."""
        for package, alone in ALONE.items():
            module = sys.modules.get(package)
            if isinstance(module, _Deferred) and fullname.startswith(f"{package}.") and fullname not in alone:
                module.execute()
        if fullname not in (*DEFERRED, UTILITIES):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _SingleProcess(spec.loader) if fullname == UTILITIES else _Deferring(spec.loader)
        return spec


class _Deferring(Loader):
    """Makes a module whose code is not executed yet."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module without its names."""
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the names that imports use."""
        vars(module).update(DEFERRED[module.__name__])


class _Deferred(ModuleType):
    """A module whose code is executed when a name is used that neither it nor one of its submodules has."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return version(self.__name__)
        if name.startswith("__"):
            raise AttributeError(name)
        home = HOMES.get(self.__name__, {}).get(name)
        with suppress(ImportError, AttributeError):  # in another version, a name may be elsewhere
            if home is not None:
                return getattr(import_module(f"{self.__name__}.{home}"), name)
        if self.__name__ not in ALONE and hasattr(self, "__path__") and find_spec(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        self.execute()
        return getattr(self, name)

    def execute(self) -> None:
        """Execute the code of the module."""
        spec = self.__spec__
        assert spec is not None, "an imported module has a specification"
        assert isinstance(spec.loader, _Deferring), "a deferred module has its loader"
        self.__class__ = _Executed  # type: ignore[assignment]
        self.__loader__ = spec.loader = spec.loader.loader
        spec.loader.exec_module(self)


class _Executed(ModuleType):
    """A module that was deferred; some packages, such as `transformers`, put another module in their place."""

    def __getattr__(self, name: str) -> Any:
        place = sys.modules.get(self.__name__, self)
        if place is self:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(place, name)


class _SingleProcess(Loader):
    """Loads the utilities of `transformers`, and has them say that packages for several processes are not available."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None: the module is made as usual."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then replace its answer."""
        if module.__spec__ is not None:
            module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        for place in (module, import_module(f"{module.__name__}.import_utils")):
            vars(place)["is_torch_distributed_available"] = lambda: False
