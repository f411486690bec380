"""A differential fuzzer of `ssol`: the processor is the truth about every instruction."""
