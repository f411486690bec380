"""Mangled names, well-formed and not: what they stand for, and that none costs much."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.symbols import cxx_names
from ptrace_uprobes.symbols.demangle import demangle

_NAMES = {
    "malloc": "malloc",
    "": "",
    "_": "_",
    "_start": "_start",
    "_Z": "_Z",
    "_R": "_R",
    "_Zero": "_Zero",
    "_Reader": "_Reader",
    "foo.part.0": "foo.part.0",
    "_Z1fv": "f()",
    "_Z1fv.cold": "f() [clone .cold]",
    "_Z1fv.constprop.0.isra.1": "f() [clone .constprop.0] [clone .isra.1]",
    "_ZNSt6thread4joinEv@@GLIBCXX_3.4.11": "std::thread::join()@@GLIBCXX_3.4.11",
    "_ZTV7Derived": "vtable for Derived",
    "_ZNKSs2atEm": "std::string::at(unsigned long) const",
    "_GLOBAL__I_start": "global constructors keyed to start",
    "_GLOBAL_OFFSET_TABLE_": "_GLOBAL_OFFSET_TABLE_",
    "_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE": "core::fmt::Formatter::write_str",
    "_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE.llvm.123": (
        "core::fmt::Formatter::write_str"
    ),
    "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar"
    "17h930b740aa94f1d3aE": "<Test + 'static as foo::Bar<Test>>::bar",
    # 16 digits, but too few different ones for a hash: C++
    "_ZN3foo17h0000000000000000E": "foo::h0000000000000000",
    "_RNvC6_123foo3bar": "123foo::bar",
    "_RNvC3foo3bar.llvm.12": "foo::bar",
    "_RNqCs4fqI2P2rA04_11utf8_identsu30____7hkackfecea1cbdathfdh9hlq6y": (
        "utf8_idents::საჭმელად_გემრიელი_სადილი"
    ),
    "_RNCNCNgCs6DXkGYLi8lr_2cc5spawn00B5_": "cc::spawn::{closure#0}::{closure#0}",
    "_RINbNbCskIICzLVDPPb_5alloc5alloc8box_freeDINbNiB4_5boxed5FnBoxuEp6OutputuEL_ECs1iopQbuBiw2_"
    "3std": "alloc::alloc::box_free::<dyn alloc::boxed::FnBox<(), Output = ()>>",
    "_RMC0INtC8arrayvec8ArrayVechKj7b_E": "<arrayvec::ArrayVec<u8, 123>>",
    "_RMCs4fqI2P2rA04_13const_genericINtB0_8UnsignedKhb_E": "<const_generic::Unsigned<11>>",
    "_RMCs4fqI2P2rA04_13const_genericINtB0_6SignedKln98_E": "<const_generic::Signed<-152>>",
    "_RMCs4fqI2P2rA04_13const_genericINtB0_4BoolKb1_E": "<const_generic::Bool<true>>",
    "_RMCs4fqI2P2rA04_13const_genericINtB0_4CharKc2202_E": "<const_generic::Char<'\\u{2202}'>>",
}


@pytest.mark.parametrize(("name", "expected"), _NAMES.items(), ids=list(_NAMES))
def test_names_are_what_programmers_wrote(name: str, expected: str) -> None:
    assert demangle(name) == expected


def test_without_a_cxx_runtime_names_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cxx_names, "_runtime", lambda: None)
    assert demangle.__wrapped__("_Z1fv") == "_Z1fv"
    assert demangle.__wrapped__("_RNvC3foo3bar") == "foo::bar"


def _doubling(levels: int) -> str:
    """f(A, B<A, A>, B<B<A, A>, B<A, A>>, ...): each parameter is twice the one before it."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name, last = "_Z1f1A1BIS_S_E", "S1_"
    for level in range(levels):
        name += f"S0_I{last}{last}E"
        number = level + 1
        last = f"S{digits[number // 36] if number >= 36 else ''}{digits[number % 36]}_"
    return name


_HOSTILE = {
    "substitutions that double": _doubling(40),
    "pack expansions in each other": "_Z1fIJ" + "i" * 90 + "EEv" + "Dp1AI" * 12 + "T_" + "E" * 12,
    "pointers": "_Z1f" + "P" * 100_000 + "i",
    "nested names": "_ZN" + "1a" * 100_000 + "E",
    "templates": "_Z1f" + "1AI" * 50_000 + "i" + "E" * 50_000,
    "a huge length": "_Z" + "9" * 5000 + "f",
    "Rust's tuples that double": "_RIC1a" + "TB2_B2_E" * 30 + "E",
    "Rust's types that contain themselves": "_RIC1aTB3_B3_EE",
    "Rust's slices": "_RIC1a" + "S" * 30_000 + "uE",
    "Rust's backward chain": "_RIC1aTuuE" + "".join("TB4_B4_B4_E" for _ in range(2000)) + "E",
    "a huge length in Rust": "_RC" + "9" * 5000 + "f",
    "legacy lengths": "_ZN" + "9" * 5000 + "17h0123456789abcdefE",
    "legacy identifiers": "_ZN" + "1a" * 10_000 + "17h0123456789abcdefE",
    "punycode beyond Unicode": "_RNvC1au9__999999zz",
    "a surrogate": "_RNvC1au5__vt5x",
    "many bound lifetimes": "_RIC1aDGzzzzzzzz_EL_E",
    "a long constant": "_RIC1aKh" + "f" * 30_000 + "_E",
    "a zero byte": "_Z1fv\0_Z1gv",
    "not UTF-8": "_Z2\udcff\udcfev",
}


@pytest.mark.parametrize("name", _HOSTILE.values(), ids=list(_HOSTILE))
def test_no_name_costs_much(name: str) -> None:
    start = time.thread_time()
    answer = demangle.__wrapped__(name)
    # A promise of its author's limits (20 ms), with room for a loaded machine.
    assert time.thread_time() - start < 1
    assert answer == name or len(answer) < 1 << 16


@settings(max_examples=300)
@given(st.text() | st.from_regex(r"\A_(Z|ZN|R|GLOBAL_)[ -~]{0,60}\Z"))
@example("_Z1fv\n")
def test_any_text_is_answered_with_text(name: str) -> None:
    assert demangle(name) or not name


_REAL = [name for name in _NAMES if len(name) > 4] + [
    (
        "_ZNSt8_Rb_treeINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESt4pairIKS5_iESt10_Select1st"
        "IS8_ESt4lessIS5_ESaIS8_EE22_M_emplace_hint_uniqueIJRKSt21piecewise_construct_tSt5tupleIJOS5_EE"
        "SJ_IJEEEEESt17_Rb_tree_iteratorIS8_ESt23_Rb_tree_const_iteratorIS8_EDpOT_"
    ),
    (
        "_RNvXsi_NvNtNtCsfTISLGThhZ2_6rustix2fs5statx1__NtB5_16InternalBitFlagsNtNtCsgEmfK2I1SDS_4core3"
        "fmt8LowerHex3fmt"
    ),
]


@settings(max_examples=400)
@given(st.data())
def test_damaged_names_are_answered_with_text(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(_REAL))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(name)))
        end = data.draw(st.integers(at, min(len(name), at + 12)))
        other = data.draw(st.sampled_from(_REAL))
        start = data.draw(st.integers(0, len(other)))
        name = name[:at] + other[start : start + data.draw(st.integers(0, 12))] + name[end:]
    begun = time.thread_time()
    assert demangle(name) or not name
    assert time.thread_time() - begun < 1
