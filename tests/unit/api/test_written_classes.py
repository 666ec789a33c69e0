"""Classes as they are written in Python, read by the one reader of ontologies."""

from pathlib import Path

import pytest

from secondlook.api.written_classes import ontology_of
from secondlook.core.ontology_yaml import ontology_from_lines, ontology_from_yaml
from secondlook_client.errors import BadOntology, NotFound
from secondlook_client.ontology import ClassSpec, Ontology

GLASSES = "glasses on @eyes = person ? Is this person wearing glasses?"
BARE = "glasses off @eyes = person ? Is this person not wearing glasses?"
YAML = "classes: {dog: , vehicle: {phrases: [car, bus], accept: 0.7}}"


def test_every_way_of_writing_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(YAML)
    wanted = ontology_from_yaml(YAML)
    for written in (
        {"dog": None, "vehicle": {"phrases": ("car", "bus"), "accept": 0.7}},
        {"dog": "dog", "vehicle": {"phrases": ["car", "bus"], "accept": "0.7"}},
        ["dog", ClassSpec("vehicle", ["car", "bus"], accept=0.7)],
        wanted,
        tmp_path / "classes.yaml",
        str(tmp_path / "classes.yaml"),
    ):
        assert ontology_of(written) == wanted, written


def test_lines_are_those_of_the_command_line() -> None:
    assert ontology_of([GLASSES, BARE]) == ontology_from_lines([GLASSES, BARE])
    assert ontology_of("dog, cat") == ontology_of(["dog", "cat"])
    assert ontology_of({"vehicle": ["car", "bus"]}).phrases == ("car", "bus")


def test_names_in_any_script_come_through() -> None:
    assert ontology_of({"Hündin 🐕": {"phrases": ["dog"]}}).names == ("Hündin 🐕",)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], "no class"),
        (3, "a list of names, a dict of phrases by name.*got int"),
        ([3], "expected a class as 'name"),
        ({"dog": {"phrase": ["dog"]}}, "did you mean 'phrases'"),
        ({"dog": {"accept": 2}}, "between 0 and 1"),
        ({"dog": {"phrases": [object()]}}, "something other than text"),
        (["dog", "dog"], "given twice"),
    ],
)
def test_what_is_wrong_is_told(classes: object, said: str) -> None:
    with pytest.raises(BadOntology, match=said):
        ontology_of(classes)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFound, match="no ontology file"):
        ontology_of("classes.yml")
    assert isinstance(ontology_of("dog"), Ontology)
