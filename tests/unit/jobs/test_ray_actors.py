"""The actors of a Ray cluster as plain classes, without Ray."""

from fakes import make_image

from secondlook.config.settings import Settings
from secondlook.jobs.image_source import PreparedImage
from secondlook.jobs.in_flight import LabelledItem
from secondlook.jobs.ray_actors import ModelActor
from secondlook.labeling.pipeline import Task
from secondlook.store.images import NewImage
from secondlook_client.errors import BadImage
from secondlook_client.ontology import ClassSpec, Ontology


def batch_of(*names: str) -> list[PreparedImage | Exception]:
    ontology = Ontology((ClassSpec("dog"),))
    images = [make_image(name, shade=ord(name)) for name in names]  # of alike ones one is asked
    return [PreparedImage(Task(one, ontology), NewImage(one.sha256, 1, "png"), 0) for one in images]


def test_what_is_no_image_is_its_own_outcome_in_its_place() -> None:
    models = {"proposer": "scripted_models:bright_half:0"}
    actor = ModelActor(Settings().replace(**models, verifier="scripted_models:agreeable:dog"))
    assert actor.ready().proposer == ("bright-half", "1")
    broken = BadImage("no image")
    first, second, third = actor.label([*batch_of("a"), broken, *batch_of("b")], None)
    assert second is broken
    assert isinstance(first, LabelledItem) and isinstance(third, LabelledItem)
    assert (first.labelled.name, third.labelled.name) == ("a", "b")
