"""How the first instruction of each function of real libraries is executed: share per plan.

A plan of one stop per hit is `emulate` or `boost`; `step` costs two; `refuse` cannot be probed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.ssol.mechanism import Mechanism
from ptrace_uprobes.ssol.plan import plan
from ptrace_uprobes.symbols.image import open_image

_FILES = {
    "libc": "libc.so.6",
    "libstdc++": "libstdc++.so.6",
    "libcrypto": "libcrypto.so.3",
    "libsqlite3": "libsqlite3.so.0",
    "python3": "python3",
}
_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/bin",
)
_SHOWN_REASONS = 3
_GROUP = "plan shares"


def _find(name: str) -> Path | None:
    for folder in _FOLDERS:
        path = Path(folder) / name
        if path.exists():
            return path.resolve()
    return None


def _shares(path: Path) -> tuple[Counter[Mechanism], Counter[str]]:
    image = open_image(str(path))
    content = path.read_bytes()
    shares: Counter[Mechanism] = Counter()
    reasons: Counter[str] = Counter()
    seen = set()
    for symbol in image.glob("*"):
        if symbol.address in seen or not image.is_code(symbol.address):
            continue
        seen.add(symbol.address)
        segment = next(part for part in image.segments if part.contains(symbol.address))
        start = symbol.address - segment.address + segment.offset
        # Where the file is loaded makes no difference to which plan is chosen.
        chosen = plan(
            content[start : start + 15], VirtAddr(0x7F0000000000 + symbol.address), X86_64
        )
        shares[chosen.mechanism] += 1
        if chosen.mechanism is Mechanism.REFUSE:
            reasons[f"{symbol.name}: {chosen.reason}"] += 1
    return shares, reasons


@pytest.mark.benchmark(group=_GROUP)
@pytest.mark.parametrize("name", _FILES)
def test_shares(
    name: str, figure: Callable[..., None], not_measured: Callable[[str], NoReturn]
) -> None:
    path = _find(_FILES[name])
    if path is None:
        not_measured(f"{_FILES[name]} is not installed")
    shares, reasons = _shares(path)
    total = shares.total()
    if total == 0:
        not_measured(f"{path} has no function symbols")
    facts = {"kind": "plan shares", "file": str(path), "functions": total}
    one_stop = shares[Mechanism.BOOST] + shares[Mechanism.EMULATE]
    figure(_GROUP, f"{name}: one stop", one_stop / total, "share", goal="at least 0.99", **facts)
    for mechanism in Mechanism:
        figure(
            _GROUP,
            f"{name}: {mechanism.value}",
            shares[mechanism] / total,
            "share",
            mechanism=mechanism.value,
            count=shares[mechanism],
            reasons=[text for text, _ in reasons.most_common(_SHOWN_REASONS)]
            if mechanism is Mechanism.REFUSE
            else [],
            **facts,
        )
