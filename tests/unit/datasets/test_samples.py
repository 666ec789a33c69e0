"""What a training set knows of its classes."""

import pytest

from secondlook.core.ontology_yaml import dump
from secondlook.datasets.samples import TrainingSet
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import ClassSpec, Ontology

EYEWEAR = dump(
    Ontology(
        (
            ClassSpec("on", question="On?", group="eyewear"),
            ClassSpec("person"),
            ClassSpec("off", question="Off?", group="eyewear"),
        )
    )
)


@pytest.mark.parametrize(
    ("classes", "ontology", "groups"),
    [
        (("person", "off", "on"), EYEWEAR, ("", "eyewear", "eyewear")),
        (("person", "off"), EYEWEAR, ()),  # a class that nothing contradicts
        (("cat", "on", "off"), EYEWEAR, ("", "eyewear", "eyewear")),
        (("on", "off"), "", ()),
        (("on", "off"), "classes: {on: {}, off: {}}", ()),
    ],
)
def test_the_contrast_group_of_each_class(
    classes: tuple[str, ...], ontology: str, groups: tuple[str, ...]
) -> None:
    data = TrainingSet("street", classes, (), (), "val", "0" * 64, ontology)
    assert data.groups == groups


def test_an_ontology_that_cannot_be_read_is_told() -> None:
    data = TrainingSet("street", ("on", "off"), (), (), "val", "0" * 64, "classes: [")
    with pytest.raises(BadOntology, match="the ontology of street"):
        assert data.groups
