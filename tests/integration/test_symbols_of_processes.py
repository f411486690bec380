"""The modules of a live process, and places in them that are where its memory says."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptrace_uprobes.definition.spec import parse_spec
from ptrace_uprobes.errors import MemoryFault, UnreadableElf
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.symbols.image import Image, open_image
from ptrace_uprobes.symbols.modules import ModuleList, modules_of
from ptrace_uprobes.symbols.resolve import Place, resolve
from tests.support.build import build_target
from tests.support.elf_tools import file_offset, functions
from tests.support.target import start_target
from tests.support.versioned import versioned_library


def _read_memory(pid: int, address: int, size: int) -> bytes:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)
    except OSError as error:
        raise MemoryFault(address, size) from error


def _modules(pid: int) -> ModuleList:
    return modules_of(pid, read_maps(pid), lambda address, size: _read_memory(pid, address, size))


def _resolve(pid: int, text: str) -> list[Place]:
    return resolve(parse_spec(text), _modules(pid))


@pytest.mark.parametrize(
    "flags",
    [
        ("-fPIE", "-pie"),
        ("-fno-pie", "-no-pie"),
        ("-static", "-fno-pie", "-no-pie"),
        ("-static-pie", "-fPIE"),
        ("-fPIE", "-pie", "-Wl,-z,noseparate-code"),
        ("-fPIE", "-pie", "-Wl,-z,max-page-size=0x200000"),
    ],
    ids=["PIE", "fixed address", "static", "static PIE", "one segment", "large pages"],
)
def test_a_function_is_where_its_bytes_are(flags: tuple[str, ...]) -> None:
    program = build_target("sleeper.c", *flags)
    function = functions(program)["idle"]
    with open(program, "rb") as file:
        expected = os.pread(file.fileno(), function.size, file_offset(program, function.address))

    with start_target(program) as target:
        (place,) = _resolve(target.pid, "idle")

        assert place.module.is_main
        assert place.module.contains(place.address)
        assert place.module.path == str(program.resolve())
        assert _read_memory(target.pid, place.address, function.size) == expected
        assert resolve(parse_spec(f"{place.address:#x}"), _modules(target.pid)) == [
            Place(place.module, place.symbol, place.address, f"{place.address:#x}", False)
        ]


def test_a_librarys_functions_are_where_dlsym_finds_them() -> None:
    libc = ctypes.CDLL("libc.so.6")
    for name in ("malloc", "qsort", "printf", "getpid"):
        address = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
        (place,) = _resolve(os.getpid(), f"libc:{name}")
        assert place.address == address
        assert not place.is_ifunc


def test_every_module_with_code_is_there_and_the_program_is_first() -> None:
    modules = _modules(os.getpid())

    mapped = {
        mapping.path
        for mapping in read_maps(os.getpid())
        if mapping.is_executable and (mapping.is_file or mapping.path == "[vdso]")
    }
    assert {module.path for module in modules} == mapped
    assert modules.skipped == ()
    assert [module.is_main for module in modules] == [True] + [False] * (len(modules) - 1)
    assert os.path.samefile(modules[0].path, "/proc/self/exe")
    assert [m.start for m in modules[1:]] == sorted(m.start for m in modules[1:])


def test_the_vdso_is_a_module() -> None:
    for name in ("vdso", "[vdso]", "linux-vdso.so.1"):
        places = _resolve(os.getpid(), f"{name}:__vdso_clock_gettime")
        assert [place.module.path for place in places] == ["[vdso]"]


def test_a_file_that_is_executable_memory_and_no_program_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"\xc3" * 4096)
    with (
        open(path, "rb") as file,
        mmap.mmap(
            file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE
        ),
    ):
        modules = _modules(os.getpid())

    assert [error.path for error in modules.skipped] == [str(path)]
    assert all(module.path != str(path) for module in modules)


def test_a_module_goes_by_a_link_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "c").symlink_to(_resolve(os.getpid(), "libc:malloc")[0].module.path)

    assert [p.label for p in _resolve(os.getpid(), f"{tmp_path}/c:malloc")] == ["malloc"]


@pytest.fixture
def loaded_copy(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A library of this process's own, and where its `plain` is."""
    path = tmp_path / "libcopy.so.1"
    shutil.copy(versioned_library(), path)
    library = ctypes.CDLL(str(path))
    address = ctypes.cast(library.plain, ctypes.c_void_p).value
    assert address is not None
    yield path, address
    dlclose = ctypes.CDLL(None).dlclose
    dlclose.argtypes = [ctypes.c_void_p]
    dlclose(library._handle)


def _replace(path: Path) -> None:
    """As a package manager does: another file of the same name."""
    other = path.with_name("new")
    shutil.copy(build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so"), other)
    other.rename(path)


@pytest.mark.parametrize("what", ["unlinked", "replaced"])
@pytest.mark.parametrize("privileged", [True, False], ids=["by map_files", "from memory"])
def test_a_library_that_is_gone_from_the_disk_is_still_known(
    loaded_copy: tuple[Path, int],
    what: str,
    privileged: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, address = loaded_copy
    if what == "unlinked":
        path.unlink()
    else:
        _replace(path)
    if not privileged:
        # As the kernel answers who lacks CAP_CHECKPOINT_RESTORE.
        def refuse_links(path: str, *, name: str | None = None, root: str = "") -> Image:
            if path.startswith("/proc/") and "/map_files/" in path:
                raise UnreadableElf(path, "Operation not permitted")
            return open_image(path, name=name, root=root)

        monkeypatch.setattr("ptrace_uprobes.symbols.modules.open_image", refuse_links)
    elif os.geteuid() != 0:
        pytest.skip("only root may follow the links in map_files")

    for text in ("libcopy:plain", f"{path}:plain", "libversioned:plain"):
        assert [place.address for place in _resolve(os.getpid(), text)] == [address]
    (old,) = _resolve(os.getpid(), "libcopy:copy@V1")
    assert old.label == "copy@V1"


def test_one_file_that_is_loaded_twice_is_two_modules(tmp_path: Path) -> None:
    # GIVEN a library that a second dlmopen(3) namespace has too
    path = tmp_path / "libtwice.so"
    shutil.copy(build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so"), path)
    library = ctypes.CDLL(str(path))
    process = ctypes.CDLL(None)
    process.dlmopen.restype = ctypes.c_void_p
    process.dlmopen.argtypes = [ctypes.c_long, ctypes.c_char_p, ctypes.c_int]
    process.dlclose.argtypes = [ctypes.c_void_p]
    handle = process.dlmopen(-1, os.fsencode(path), os.RTLD_NOW)
    assert handle
    try:
        found = [module for module in _modules(os.getpid()) if module.matches("libtwice")]
        assert len({module.bias for module in found}) == 2
    finally:
        process.dlclose(handle)
        process.dlclose(library._handle)


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot(8) needs root")
def test_a_program_in_another_root_directory_is_found(tmp_path: Path) -> None:
    program = build_target("sleeper.c", "-static", "-fno-pie", "-no-pie")
    (tmp_path / "bin").mkdir()
    shutil.copy(program, tmp_path / "bin" / "prog")
    wrapper = shutil.which("chroot")
    assert wrapper is not None

    with start_target("/bin/prog", wrapper=(wrapper, str(tmp_path))) as target:
        for text in ("idle", "prog:idle", f"{tmp_path}/bin/prog:idle"):
            (place,) = _resolve(target.pid, text)
            assert place.address == functions(program)["idle"].address


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_a_program_in_a_container_is_found_by_its_own_paths(tmp_path: Path) -> None:
    # GIVEN a program whose path leads to it in its own mount namespace only
    program = build_target("sleeper.c", "-static", "-fno-pie", "-no-pie")
    (tmp_path / "real").mkdir()
    (tmp_path / "seen").mkdir()
    shutil.copy(program, tmp_path / "real" / "prog")
    path = tmp_path / "seen" / "prog"
    wrapper = shutil.which("unshare")
    if wrapper is None:
        pytest.skip("no unshare(1)")
    script = f'mount --bind {tmp_path}/real {tmp_path}/seen && exec "$0"'

    with start_target(path, wrapper=(wrapper, "-m", "/bin/sh", "-c", script)) as target:
        assert not path.exists()
        for text in ("idle", "prog:idle", f"{path}:idle", f"{tmp_path}/real/prog:idle"):
            (place,) = _resolve(target.pid, text)
            assert place.address == functions(program)["idle"].address
            assert place.module.path == str(path)


def test_a_program_that_was_deleted_is_still_known(tmp_path: Path) -> None:
    program = tmp_path / "prog"
    shutil.copy(build_target("sleeper.c"), program)
    with start_target(program) as target:
        program.unlink()

        (place,) = _resolve(target.pid, "idle")

        assert place.module.is_main


def test_looking_again_opens_no_descriptor() -> None:
    _modules(os.getpid())
    before = len(os.listdir("/proc/self/fd"))

    first, second = _modules(os.getpid()), _modules(os.getpid())

    assert len(os.listdir("/proc/self/fd")) == before
    assert [a.image is b.image for a, b in zip(first, second, strict=True)] == [True] * len(first)
