"""What actors reserve on a cluster, and the command of the job for Kubernetes."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from secondlook.cli.label import label_command

pytest.importorskip("ray")

from secondlook.core.version import installed_version
from secondlook.jobs.ray_actors import MapFacts
from secondlook.jobs.ray_cluster import ActorShares, ClusterPlan, check_machine, shares_of
from secondlook_client.errors import BadSetting

KUBERAY = Path(__file__).parents[3] / "deploy" / "kuberay.yaml"


@pytest.mark.parametrize(
    ("plan", "cpus", "gpus", "expected"),
    [
        (ClusterPlan("auto"), 2, 0, ActorShares(2, 0.0, 0.9, 1, 0.1)),
        (ClusterPlan("auto"), 16, 0, ActorShares(17, 0.0, 0.9, 5, 0.1)),
        (ClusterPlan("auto", actors=3, cpus=0.4), 2, 0, ActorShares(3, 0.0, 0.4, 1, 0.1)),
        (ClusterPlan("auto"), 64, 8, ActorShares(8, 1.0, 1.0, 32, 0.5)),
        (ClusterPlan("auto", gpus=0.5), 8, 1, ActorShares(2, 0.5, 1.0, 4, 0.5)),
        (ClusterPlan("auto", gpus=0), 8, 1, ActorShares(8, 0.0, 0.9, 2, 0.1)),
    ],
)
def test_actors_fit_the_cluster(
    plan: ClusterPlan, cpus: float, gpus: float, expected: ActorShares
) -> None:
    shares = shares_of(plan, cpus, gpus)
    assert shares == expected
    assert shares.models * shares.cpus + shares.decoders * shares.decoder_cpus <= cpus
    assert shares.models * shares.gpus <= gpus


def test_a_machine_with_other_models_or_another_version_is_refused() -> None:
    first = MapFacts("dino@1", installed_version())
    check_machine(first, MapFacts("dino@1", installed_version()))
    with pytest.raises(BadSetting, match="different models: dino@2 and dino@1; give each the same"):
        check_machine(MapFacts("dino@2", installed_version()), first)
    with pytest.raises(BadSetting, match=r"has secondlook 0\.0, this one .*; install the same"):
        check_machine(MapFacts("dino@1", "0.0"))


def test_the_command_of_the_kuberay_job_is_one() -> None:
    job = yaml.safe_load(KUBERAY.read_text(encoding="utf-8"))
    program, command, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("secondlook", "label")
    given = label_command.make_context("label", words).params
    assert given["ray"] == "auto"
    assert given["images"] == ("s3://pictures/in",)


def test_ray_is_imported_by_nobody_who_does_not_ask_for_it() -> None:
    importers = [
        name
        for name, module in sys.modules.items()
        if name.startswith("secondlook.") and getattr(module, "ray", None) is sys.modules["ray"]
    ]
    assert importers == ["secondlook.jobs.ray_cluster"]
