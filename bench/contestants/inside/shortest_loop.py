"""MODE ADDRESS PROGRAM [ARGUMENT...]: the shortest loop that a tracer in Python can have.

The instruction at ADDRESS is a nop of one byte, which needs no executing: the trap's own byte has
stepped over it. MODE `bare` continues; `peek` also reads RIP and writes it, as a slot needs.
"""

import ctypes
import os
import signal
import sys

TRACEME, POKETEXT, PEEKTEXT, PEEKUSER, POKEUSER, CONT = 0, 4, 1, 3, 6, 7
RIP = 16 * 8  # struct user_regs_struct

mode, address, *argv = sys.argv[1:]
site = int(address, 0)
libc = ctypes.PyDLL(None)
ptrace = libc.ptrace
ptrace.restype = ctypes.c_long

pid = os.fork()
if pid == 0:
    ptrace(TRACEME, 0, 0, 0)
    os.execv(argv[0], argv)
waitpid = os.waitpid
waitpid(pid, 0)
where = ctypes.c_ulong(site & ~7)
word = ptrace(PEEKTEXT, pid, where, 0) & 0xFFFFFFFFFFFFFFFF
shift = 8 * (site & 7)
word = word & ~(0xFF << shift) | 0xCC << shift
ptrace(POKETEXT, pid, where, ctypes.c_ulong(word))
behind = ctypes.c_ulong(site + 1)
trap = signal.SIGTRAP << 8 | 0x7F
hits = 0
if mode == "bare":
    ptrace(CONT, pid, 0, 0)
    while waitpid(pid, 0)[1] == trap:
        hits += 1
        ptrace(CONT, pid, 0, 0)
else:
    ptrace(CONT, pid, 0, 0)
    while waitpid(pid, 0)[1] == trap:
        if ptrace(PEEKUSER, pid, RIP, 0) != site + 1:
            break
        hits += 1
        ptrace(POKEUSER, pid, RIP, behind)
        ptrace(CONT, pid, 0, 0)
print("hits", hits)
