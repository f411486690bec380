"""Instructions of every map, through every plan, show the program what the processor shows it."""

from __future__ import annotations

from collections.abc import Iterator

import capstone
import pytest
from fuzz import table
from fuzz.campaign import Campaign
from fuzz.corpus import read_corpus
from fuzz.harness import Harness, HarnessLost
from fuzz.mode import mode_of

from tests.support.build import BuildFailed

_COUNT = {64: 12_000, 32: 8_000}
_SEED = 5


@pytest.fixture(scope="module", params=[64, 32], ids=["64-bit", "32-bit"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    mode = mode_of(request.param)
    try:
        running = Harness(mode)
    except BuildFailed as failure:
        pytest.skip(f"this compiler makes no {mode.bits}-bit programs: {failure}")
    except HarnessLost as lost:
        pytest.skip(f"the harness cannot start here: {lost}")
    with running:
        yield running


def test_what_was_once_wrong_is_right(harness: Harness) -> None:
    campaign = Campaign(harness)
    campaign.run(read_corpus(harness.mode))
    assert campaign.tally.states >= 5
    assert not campaign.tally.disagreements


def test_generated_instructions_show_what_the_processor_shows(harness: Harness) -> None:
    campaign = Campaign(harness)
    campaign.run(campaign.generated(_SEED), count=_COUNT[harness.mode.bits])
    tally = campaign.tally
    assert not tally.disagreements
    assert tally.states == _COUNT[harness.mode.bits]
    assert min(tally.runs[way] for way in ("boost", "boost far", "step", "emulate")) > 300
    assert len(tally.executed) > 300


def test_the_document_of_instructions_is_what_the_planner_does() -> None:
    document = table.PATH.read_text()
    made_with = table.capstone_of(document)
    if made_with != capstone.__version__:
        pytest.skip(f"made with capstone {made_with}, not {capstone.__version__}")
    assert document == table.table(), "run `python -m fuzz.table`"
