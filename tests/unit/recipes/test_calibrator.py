"""The calibrator that comes with the embedded models, and its recipe."""

from pathlib import Path

import numpy as np
import pytest

from recipes.calibrator import train
from secondlook.config.settings import ModelSettings
from secondlook.core.ontology_yaml import load_ontology
from secondlook.demo.world import ontology_yaml
from secondlook.evaluation.calibration import auroc
from secondlook.labeling.calibrator import Calibrator
from secondlook.models.embedded import EMBEDDED, load_proposer, load_verifier
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook_client.ontology import Ontology


@pytest.fixture(scope="module")
def shipped() -> Calibrator:
    return embedded_calibrator()


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    (tmp_path / "ontology.yaml").write_text(ontology_yaml())
    return load_ontology(tmp_path / "ontology.yaml")


def test_it_is_for_the_embedded_models_and_the_classes_of_the_world(
    shipped: Calibrator, ontology: Ontology
) -> None:
    options = ModelSettings()
    models = [load("", options) for load in (load_proposer, load_verifier)]
    proposer, verifier = (f"{model.name}@{model.digest}" for model in models)
    assert (shipped.proposer, shipped.verifier) == (proposer, verifier)
    shipped.check(ontology, proposer, verifier)
    assert shipped.classes == ontology.names


def test_it_is_what_the_recipe_writes(shipped: Calibrator) -> None:
    assert (EMBEDDED / train.FILE).read_text() == shipped.to_json() + "\n"
    assert shipped.source == train.source(train.WORLDS)
    assert shipped.scenes > 0.95 * sum(train.WORLDS.values())
    assert all(0 < limit < 0.95 for limit in shipped.accept.values())


def test_the_recipe_makes_one_like_it(shipped: Calibrator, tmp_path: Path) -> None:
    train.main(["--work", str(tmp_path), "--out", str(tmp_path), "--at-most", "12"])
    made = Calibrator.from_json((tmp_path / train.FILE).read_text())
    assert (made.proposer, made.verifier) == (shipped.proposer, shipped.verifier)
    assert made.classes == shipped.classes
    assert made.features == shipped.features
    judged = train.judged_scenes(tmp_path / "501", 501, 12)
    features, right = judged.features(), judged.right(judged.products)
    for one in (made, shipped):
        found = one.probabilities(features, judged.class_names)
        assert np.isfinite(found).all()
        assert auroc(found, right) > 0.98
