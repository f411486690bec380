"""Builds the part that is in C, where a C compiler and Python's headers are to be had.

Nothing depends on it but the time that a hit takes: without it the same is done in Python.
"""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = Path("src/ptrace_uprobes/engine")
_NAME = "_counting"


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling has no types here
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is `editable` or `standard`; hatchling calls this before it collects files."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        library = root / _FOLDER / (_NAME + sysconfig.get_config_var("EXT_SUFFIX"))
        library.unlink(missing_ok=True)
        command = [
            *shlex.split(sysconfig.get_config_var("CC") or "cc"),
            "-O2",
            "-shared",
            "-fPIC",
            f"-I{sysconfig.get_paths()['include']}",
            str(root / _FOLDER / f"{_NAME}.c"),
            "-o",
            str(library),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"built without {_NAME}.c, hits take longer: {said.strip()}")
            return
        build_data["artifacts"].append(str(library.relative_to(root)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
