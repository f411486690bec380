"""`python -m ptrace_uprobes`: the same as the `ptrace-uprobes` command."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command; the result is the exit status."""
    # Until the command takes over, Ctrl-C ends us as it ends any program, without a traceback.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ptrace_uprobes.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
