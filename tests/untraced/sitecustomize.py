"""Import LiteLLM without the tracing of coverage. Python runs this module at its start if PYTHONPATH has its folder.

coverage measures only our package, but traces each call. That adds a third to the import of LiteLLM, which takes most
of a start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_PACKAGES = ("fastapi", "litellm")


class UntracedFinder:
    """Finds modules of these packages, which then suspend tracing while they are executed."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in _PACKAGES or sys.gettrace() is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_untraced(module: ModuleType) -> None:
            tracer = sys.gettrace()
            sys.settrace(None)
            try:
                execute(module)
            finally:
                sys.settrace(tracer)

        spec.loader.exec_module = execute_untraced  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, UntracedFinder)
