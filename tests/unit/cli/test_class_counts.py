"""The lines that end a `label` run: what became of the boxes of each class."""

from labelled import judged, result

from secondlook.cli.label import class_counts
from secondlook.evaluation.run_stats import RunStats
from secondlook_client.values import Outcome


def test_every_class_has_a_line_in_the_order_of_the_ontology():
    stats = RunStats.of(
        [
            result(judged("person not wearing glasses"), judged("dog", outcome=Outcome.REJECT)),
            result(judged("dog", outcome=Outcome.UNSURE), judged("dog", outcome=Outcome.REJECT)),
        ]
    )
    lines = list(class_counts(stats, ["dog", "cat", "person not wearing glasses"]))
    assert [line.split() for line in lines] == [
        ["dog", "0", "accepted", "1", "unsure", "2", "rejected"],
        ["cat", "0", "accepted", "0", "unsure", "0", "rejected"],
        ["person", "not", "wearing", "glasses", "1", "accepted", "0", "unsure", "0", "rejected"],
    ]
    assert len({line.index("accepted") for line in lines}) == 1


def test_long_names_are_cut():
    (line,) = class_counts(RunStats(), ["x" * 500])
    assert len(line) < 120
