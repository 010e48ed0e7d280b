"""A wheel brings the CPU kernel compiled for its platform; where there is no compiler, a wheel without the
kernel."""

from __future__ import annotations

import platform
import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):
    """Compile for every level of instructions; which one fits is found when it is loaded."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel. An editable install has none: there the kernel is compiled when
        first used."""
        if version == "editable" or platform.machine().lower() not in ("x86_64", "amd64"):
            return
        compiling = runpy.run_path(str(Path(self.root, "dream", "ops", "build.py")))
        folder = Path(self.root, "build", "kernel")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            libraries = [compiling["build"](level, folder) for level in compiling["LEVELS"]]
        except OSError as error:
            self.app.display_warning(f"This wheel is without the CPU kernel: {error}")
            return
        for library in libraries:
            build_data["force_include"][str(library)] = f"dream/ops/kernel/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
