"""A handler comes from the user's file, or one line says why it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptrace_uprobes.cli.handler_file import load_handler
from ptrace_uprobes.cli.options import HandlerReference
from ptrace_uprobes.errors import HandlerLoadError


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    path = list(sys.path)
    modules = dict(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


def write(folder: Path, text: str, name: str = "handlers.py") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def failure(path: str, function: str = "on_hit") -> str:
    with pytest.raises(HandlerLoadError) as caught:
        load_handler(HandlerReference(path, function))
    assert caught.value.exit_status == 1
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_function_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "def on_hit(hit):\n    return 42\n")
    handler = load_handler(HandlerReference(path, "on_hit"))
    assert handler.__name__ == "on_hit"


def test_a_file_beside_it_can_be_imported_and_hides_no_module_of_the_library(
    tmp_path: Path,
) -> None:
    write(tmp_path, "value = 1\n", "neighbour_of_the_handler.py")
    write(tmp_path, "raise RuntimeError('the wrong json')\n", "json.py")
    path = write(
        tmp_path,
        "import json\nimport neighbour_of_the_handler as n\n"
        "def on_hit(hit):\n    return json.dumps(n.value)\n",
    )
    load_handler(HandlerReference(path, "on_hit"))


def test_a_dataclass_can_be_defined_in_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int = 0\ndef on_hit(hit):\n    return A()\n",
    )
    load_handler(HandlerReference(path, "on_hit"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert failure(str(tmp_path / "none.py")).endswith("none.py: no such file")
    assert failure(str(tmp_path)).endswith(": not a file")


def test_a_file_that_is_no_python_source_is_refused(tmp_path: Path) -> None:
    assert "does not end in .py" in failure(write(tmp_path, "", "handlers.txt"))


def test_a_missing_function_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "on_hit = 3\n")
    assert failure(path, "on_mallok").endswith("has no function 'on_mallok'")
    assert failure(path).endswith("is not a function")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def on_hit(hit)\n    pass\n", ", line 1: SyntaxError: expected ':'"),
        ("x = 1\nx.y\n", ", line 2: AttributeError: 'int' object has no attribute 'y'"),
        ("import no_such_module_anywhere\n", ", line 1: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\n", ", line 1: SystemExit: 3"),
        ("raise ValueError('two\\nlines')\n", ", line 1: ValueError: two lines"),
        ("open('/nonexistent/file')\n", "No such file or directory: /nonexistent/file"),
        ("x = '\0'\n", "handlers.py"),
    ],
)
def test_a_file_that_does_not_import_says_where_and_why(
    tmp_path: Path, source: str, words: str
) -> None:
    assert words in failure(write(tmp_path, source))
