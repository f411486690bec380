"""Damaged files, seeded: a few of what `make fuzz-files` makes, and what it found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from fuzz.files.bombs import BOMBS
from fuzz.files.bounded import MEMORY, bounded
from fuzz.files.frames import walk_made_up
from fuzz.files.mutations import MUTATIONS, mutated
from fuzz.files.originals import originals
from fuzz.files.readers import read_everything

_SEEDS = 2


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_costs_little_whatever_it_claims(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    BOMBS[name](path)
    verdict = bounded(lambda: read_everything(path, 1, ("main", "copy"), ()))
    assert not verdict.is_failure, verdict
    assert verdict.peak < MEMORY, verdict


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_damaged_file_is_read_or_refused_in_bounded_time_and_memory(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile"
    for source in originals(small=True):
        for seed in range(_SEEDS):
            path.unlink(missing_ok=True)
            path.write_bytes(mutated(kind, seed, source.data, source.layout))
            verdict = bounded(partial(read_everything, path, seed, source.names, source.loads))
            assert not verdict.is_failure, (source.name, kind, seed, verdict)


def test_made_up_frames_lead_to_a_stack_in_bounded_time_and_memory(tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(25):
        verdict = bounded(partial(walk_made_up, tmp_path / "hostile", seed))
        assert not verdict.is_failure, (seed, verdict)
        outcomes.update(verdict.outcome.split("; "))
    assert len(outcomes) > 5
