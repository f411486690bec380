"""`python -m ptrace_uprobes`: the same as the `ptrace-uprobes` command."""

from __future__ import annotations

import sys

from ptrace_uprobes.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
