"""Probes by the names that C++, Rust and Go programmers write."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command import run

_CXX = r"""
#include <cstdio>
namespace ns {
struct W {
    int v;
    __attribute__((noinline)) int get(int a) const { return v + a; }
    __attribute__((noinline)) int get(double d) const { return v - static_cast<int>(d); }
};
template <class T> __attribute__((noinline)) T twice(T t) { return t + t; }
}
int main(int count, char **) {
    ns::W w{3};
    std::printf("%d %d %d\n", w.get(4 * count), w.get(2.5 * count), ns::twice(21 * count));
}
"""
_GO = """
package main

import "fmt"

type T struct{ n int }

//go:noinline
func (t *T) Add(a int) int { return t.n + a }

func main() { fmt.Println((&T{1}).Add(4)) }
"""
_RUST = """
mod shapes {
    pub struct S(pub u64);
    impl S {
        #[inline(never)]
        pub fn area(&self, k: u64) -> u64 { self.0 * k }
    }
}
fn main() {
    let k = std::env::args().count() as u64;
    println!("{}", shapes::S(6).area(7 * k));
}
"""


def _compiled(folder: Path, source: str, name: str, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (folder / name).write_text(source)
    program = folder / "program"
    subprocess.run([*command, "-o", str(program), str(folder / name)], check=True, cwd=folder)
    return program


def test_functions_of_cxx(tmp_path: Path) -> None:
    program = _compiled(tmp_path, _CXX, "program.cc", "g++", "-O1")

    def hits(spec: str) -> list[tuple[str, str]]:
        done = run("-e", spec, "--", program)
        assert (done.status, done.stdout) == (0, "7 1 42\n"), done.stderr
        return re.findall(r"\] \d+\.\d+: (.*): \(0x\S+(?: <- 0x\w+)?\)(.*)", done.stderr)

    assert hits('"ns::W::get(int) const" a=%si:s32') == [("ns::W::get(int) const", " a=4")]
    assert hits("ns::W::get(int)%return r=$retval:s32") == [
        ("ns::W::get(int) const%return", " r=7")
    ]
    assert sorted(name for name, _ in hits(f"uprobe:{program}:ns::W::get")) == [
        "ns::W::get(double) const",
        "ns::W::get(int) const",
    ]
    assert hits("program:ns::twice+0x0") == [("int ns::twice<int>(int)", "")]


def test_what_no_function_is_called_is_said_with_the_name(tmp_path: Path) -> None:
    program = _compiled(tmp_path, _CXX, "program.cc", "g++", "-O1")
    done = run("-e", f"{program}:ns::W::got", "--", program)
    assert (done.status, done.stdout) == (1, "")
    assert done.error.startswith("no symbol 'ns::W::got' in program")
    emitted = run("--emit", "kernel", "-e", f"{program}:ns::W::get(int)", "--", program)
    assert re.fullmatch(r"p:ptrace_uprobes/ns_W_get_int_const \S+:0x[0-9a-f]+\n", emitted.stdout), (
        emitted
    )


def test_methods_of_go(tmp_path: Path) -> None:
    program = _compiled(tmp_path, _GO, "program.go", "go", "build")
    done = run("-e", "main.(*T).Add a=%bx:s64", "--", program)
    assert (done.status, done.stdout) == (0, "5\n"), done.stderr
    assert re.findall(r": main\.\(\*T\)\.Add: \(0x\w+\) a=(\S+)", done.stderr) == ["4"]


def test_functions_of_rust(tmp_path: Path) -> None:
    program = _compiled(tmp_path, _RUST, "program.rs", "rustc", "-O")
    done = run("-e", "program::shapes::S::area k=%si:u64", "--", program)
    assert (done.status, done.stdout) == (0, "42\n"), done.stderr
    assert len(re.findall(r": program::shapes::S::area: \(0x\w+\) k=\d+", done.stderr)) == 1
