"""The parts of a training: settings, parameter groups, the average of the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trainings import QUICK, TINY, data, tiny
from training_sets import CLASSES, training_set
from transformers import Deimv2ForObjectDetection, DFineConfig, DFineForObjectDetection

from secondlook.datasets.bad_images import LIST
from secondlook.datasets.samples import TrainingSet
from secondlook.detector.manifest import read_manifest
from secondlook.training.distill import distill
from secondlook.training.model import own_config
from secondlook.training.progress import Progress
from secondlook.training.settings import TrainingSettings
from secondlook.training.trainer import EMA, optimiser_for
from secondlook_client.errors import BadSetting

__all__ = ["data", "tiny"]
"""Fixtures of these tests."""


def d_fine() -> torch.nn.Module:
    return DFineForObjectDetection(
        DFineConfig(
            backbone_config=own_config(TINY, CLASSES, (64, 64)).backbone_config,
            encoder_in_channels=[16, 32],
            feat_strides=[8, 16],
            num_feature_levels=2,
            encode_proj_layers=[1],
            encoder_hidden_dim=16,
            d_model=16,
            decoder_in_channels=[16, 16],
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_layers=2,
            num_queries=8,
        )
    )


@pytest.mark.parametrize("architecture", ["deimv2", "d_fine"])
def test_the_backbone_learns_more_slowly(architecture: str) -> None:
    student = (
        d_fine()
        if architecture == "d_fine"
        else Deimv2ForObjectDetection(own_config(TINY, CLASSES, (64, 64)))
    )
    assert student.config.model_type == architecture
    groups = optimiser_for(student, 1e-3, 0.3).param_groups
    slow = {id(p) for group in groups if group["share"] == 0.3 for p in group["params"]}
    names = {name for name, p in student.named_parameters() if id(p) in slow}
    assert names and len(slow) < len([*student.parameters()])
    heads = {"decoder", "encoder", "enc_output", "enc_score_head"}
    assert not {name for name in names if name.split(".")[1] in heads}
    assert any(name.endswith("convolution.weight") for name in names)
    for group in groups:
        assert group["weight_decay"] == 0 or all(p.ndim > 1 for p in group["params"])


def test_the_average_follows_quickly_at_first() -> None:
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(student.weight, 0.0)
    average = EMA(student)
    torch.nn.init.constant_(student.weight, 1.0)
    average.update(1)
    assert float(average.model.weight) == pytest.approx(1 - 2 / 11)
    average.update(10**6)
    assert float(average.model.weight) == pytest.approx(1 - 2 / 11 * 0.998)
    assert not average.model.training and not average.model.weight.requires_grad


def test_steps_follow_from_the_images() -> None:
    auto = TrainingSettings()
    assert auto.steps_for(10, from_nothing=False) == 300
    assert auto.steps_for(10, from_nothing=True) == 900
    assert auto.steps_for(1000, from_nothing=False) == 1500
    assert auto.steps_for(10**6, from_nothing=True) == 20_000
    assert replace(auto, steps=7).steps_for(10**6, from_nothing=True) == 7
    assert (
        auto.validation_interval(300) == 25
        and replace(auto, validate_every=3).validation_interval(300) == 3
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "huge"},
        {"batch": 0},
        {"learning_rate": -1.0},
        {"input_height": 64},
        {"steps": True},
    ],
    ids=str,
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSetting, match=next(iter(wrong))):
        TrainingSettings(**wrong)  # type: ignore[arg-type]


def test_a_name_that_no_manifest_takes_is_told_before_the_training(
    tmp_path: Path,
) -> None:
    data = training_set(tmp_path / "images")
    for name in ("two\nlines", "a" * 201):
        with pytest.raises(BadSetting, match="at most 200 printable"):
            distill(data, TrainingSettings(), tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_images_that_go_while_it_is_trained_do_not_end_the_distillation(
    data: TrainingSet, tmp_path: Path
) -> None:
    """Those to train on are missing from the start, one that is held out goes at the end."""
    data.train[3].path.unlink()
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        if progress.phase == "train" and progress.step == QUICK.steps:
            data.held_out[2].path.unlink(missing_ok=True)

    settings = replace(QUICK, max_bad_images=0.2)
    out = tmp_path / "out"
    manifest = distill(data, settings, out, tell, int8="never")
    assert manifest is not None and read_manifest(out) == manifest
    listed = [line.partition(": ")[0] for line in (out / LIST).read_text().splitlines()]
    assert listed == [str(data.train[3].path), str(data.held_out[2].path)]
    assert {p.of for p in told if p.phase == "export"} == {3}
