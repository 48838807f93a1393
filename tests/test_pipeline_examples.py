"""
The examples ingest and graph, as tests: a slice of the kills that `make examples` does.
"""

from examples.graph import lab as graph
from examples.ingest import lab as ingest

from holdfast.testing.crashlab import crashlab


def test_an_ingest_that_is_killed_makes_the_same_wiki_byte_for_byte() -> None:
    """R1, R6, R9, A1. The folder of documents, in the crash lab."""
    report = crashlab(ingest.work, ingest.invariant, seconds=30.0, kills=16, images=16, errors=4)
    report.check()
    assert report.kills >= 4


def test_a_graph_that_is_killed_at_its_nodes_goes_the_same_way() -> None:
    """A1, A3, A10. Loop, human gate, branches and goal gate; four places, then one store."""
    trial = graph.trial(chosen=4, seed=7)
    assert trial.troubles == [], trial.detail
    assert trial.kills >= 14
