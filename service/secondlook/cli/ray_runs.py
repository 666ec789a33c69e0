"""Commands with ``--ray``: its options, the buckets that it takes, and the models on a cluster.

What makes the labels is the job of the local run (``cli.label``); here is what differs: images and
outputs may lie in a bucket, and the pipeline is one whose models run on a Ray cluster. Commands
that look again at the images of a run have their models there too (``looks_on_ray``).
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from secondlook.cli.output_folder import OWN_FILES, RUN, STORE, OutputFolder
from secondlook.config.entrypoint import Command, SectionOption
from secondlook.config.extras import check_extras
from secondlook.config.settings import Settings
from secondlook.config.terminal import echo
from secondlook_client.errors import BadSetting, OutputExists

if TYPE_CHECKING:
    from secondlook.core.image_folder import ImageSelection
    from secondlook.jobs.ray_actors import Opening
    from secondlook.labeling.pipeline import Pipeline
    from secondlook.review.visited_images import LookAtBatches, Looked
    from secondlook.store.results import Result

    LookElsewhere = Callable[
        [Opening[Result, Looked[Any]]], AbstractContextManager[tuple[str, LookAtBatches[Any]]]
    ]

SECTION = "Many machines (--ray)"
UPLOADS = 8
"""Files that are uploaded at a time."""
Place = Path | str
"""A folder, or the URL of a bucket."""


def ray_options(command: Command) -> Command:
    """``--ray``, and what each actor with models has of the cluster."""
    option = partial(click.option, cls=SectionOption, section=SECTION)
    address = option(
        "--ray",
        metavar="ADDRESS",
        help="Run the models on a Ray cluster: auto (the one of this machine), ray://HOST:PORT.",
    )
    actors = option(
        "--ray-actors",
        type=click.IntRange(0, 100_000),
        default=0,
        metavar="N",
        help="Actors with models; 0: as many as fit.",
    )
    gpus = option(
        "--ray-gpus",
        type=click.FloatRange(0, 64),
        default=1.0,
        show_default=True,
        metavar="N",
        help="GPUs of each, on a cluster with some; 0.5: two share one; 0: none.",
    )
    cpus = option(
        "--ray-cpus",
        type=click.FloatRange(0, 1024),
        default=0.0,
        metavar="N",
        help="CPUs of each; 0: one, or nearly one where there is no GPU.",
    )
    return address(actors(gpus(cpus(command))))


def check_ray(
    ray: str | None,
    places: Sequence[Place],
    settings: Settings,
    others: Mapping[str, object],
) -> None:
    """Refuse what a cluster cannot do, and buckets without one.

    ``places`` are the images and the output; ``others`` are the options that do not go together
    with ``ray``, by name. Raises ``click.UsageError`` and ``BadSetting``.
    """
    buckets = [place for place in places if isinstance(place, str)]
    if ray is None:
        if buckets:
            raise click.UsageError(f"{_shown(buckets[0])}: buckets are read and written with --ray")
        return
    others = {**others, "--student": settings.cascade.student}
    if named := next((name for name, given in others.items() if given), ""):
        raise click.UsageError(f"--ray does not go together with {named}; leave one of them out")
    *images, out = places
    if len(images) > 1 and any(isinstance(place, str) for place in images):
        raise click.UsageError("give one bucket, or folders and files")
    store = settings.store
    if isinstance(out, str) and not (store.data or store.database_url):
        raise BadSetting(
            "an --out in a bucket gets the labels; what a later start continues from needs a "
            "place too: give --data FOLDER, on a disk that stays, or --database-url"
        )


def extras_of_ray(ray: str | None, places: Sequence[Place]) -> list[str]:
    """What labelling on a cluster needs besides models."""
    buckets = any(isinstance(place, str) for place in places)
    return ["ray", *["s3"] * buckets] if ray else []


def bucket_store(settings: Settings, out: Place) -> Settings:
    """``settings`` with images kept beside the outputs, where nothing else is named for them."""
    store = settings.store
    if isinstance(out, Path) or store.data or store.blob_url:
        return settings
    parts = urlsplit(out)
    return settings.replace(blob_url=parts._replace(path=f"{parts.path}/{STORE}/blobs").geturl())


def select_bucket(url: str) -> "ImageSelection":
    """The images of a bucket. Raises ``BadSetting`` for a URL that is none."""
    from secondlook.store.object_images import select_objects

    return select_objects(url)


@contextmanager
def ray_models(
    ray: str, shares: Mapping[str, Any], selection: "ImageSelection"
) -> "Iterator[Callable[[Settings], Pipeline]]":
    """What loads the models on the cluster; the actors end with it.

    ``shares``: actors, gpus and cpus, see ``ClusterPlan``.
    """
    from secondlook.jobs.ray_cluster import ClusterPlan
    from secondlook.jobs.ray_labeling import RayModels

    opened: list[RayModels] = []

    def build(settings: Settings) -> RayModels:
        plan = ClusterPlan(ray, **shares)
        opened.append(RayModels(plan, settings, selection, lambda line: echo(line, err=True)))
        return opened[0]

    try:
        yield build
    finally:
        for models in opened:
            models.close()


def look_elsewhere(ray: str | None, flags: dict[str, Any]) -> "LookElsewhere | None":
    """Who looks at images by the models of a cluster, if ``ray`` names one.

    Removes the other options of ``ray_options`` from ``flags``. Raises ``MissingExtra``.
    """
    shares = shares_in(flags)
    if ray is None:
        return None
    check_extras("running models on a cluster", "serve", "ray")
    return partial(looks_on_ray, ray, shares)


def shares_in(flags: dict[str, Any]) -> dict[str, Any]:
    """What each actor has, see ``ClusterPlan``; removed from ``flags``."""
    return {name: flags.pop(f"ray_{name}") for name in ("actors", "gpus", "cpus")}


@contextmanager
def looks_on_ray(
    ray: str, shares: Mapping[str, Any], opening: "Opening[Result, Looked[Any]]"
) -> "Iterator[tuple[str, LookAtBatches[Any]]]":
    """By what the machines of a cluster look at the images of a run, and who looks."""
    from secondlook.jobs.ray_cluster import ClusterPlan
    from secondlook.jobs.ray_map import RayMap

    # Ray tells of each dead worker on standard output, where a command's --json goes.
    with redirect_stdout(sys.stderr):
        cluster = RayMap(ClusterPlan(ray, **shares), opening, lambda line: echo(line, err=True))
        try:
            yield cluster.facts.models, partial(cluster.map, lost=_given_up)
        finally:
            cluster.close()


def _given_up(result: "Result") -> "Looked[Any]":
    from secondlook.jobs.ray_cluster import LOST_ALONE
    from secondlook.review.visited_images import Looked

    name = result.labelled.name
    return Looked(None, 0, (f"{name}: looking at it ended its worker {LOST_ALONE} times",))


@contextmanager
def output_folder(out: Place) -> Iterator[OutputFolder]:
    """The folder of a run, or one whose files are uploaded by ``publish``."""
    if isinstance(out, Path):
        with OutputFolder(out) as folder:
            yield folder
        return
    with (
        tempfile.TemporaryDirectory(prefix="secondlook-") as staged,
        BucketOutput(Path(staged), out) as folder,
    ):
        yield folder


class BucketOutput(OutputFolder):
    """A run's folder in a bucket: written beside, and uploaded when the run is finished.

    ``run.json`` is there from the first moment on, so that a later start finds the run's job.
    """

    def __init__(self, staged: Path, url: str) -> None:
        """Raises ``StoreUnavailable``, and ``OutputExists`` for files of others."""
        import obstore

        from secondlook.store.object_blobs import MISSING, open_objects, translated_errors

        super().__init__(staged)
        self._objects = open_objects(url)
        self._url = _shown(url)
        with translated_errors():
            try:
                record = bytes(obstore.get(self._objects, RUN).bytes())
            except MISSING:
                self._refuse_foreign_objects()
            else:
                (staged / RUN).write_bytes(record)

    @property
    def shown(self) -> str:
        """See ``OutputFolder``."""
        return self._url

    def claim(self, identity: Mapping[str, Any]) -> str:
        """See ``OutputFolder``."""
        job = super().claim(identity)
        self._upload([self.path / RUN])
        return job

    def publish(self) -> None:
        """Upload everything that the run wrote, and delete what an earlier one wrote and this one
        did not."""
        import obstore

        from secondlook.store.object_blobs import translated_errors

        outputs = [path for path in self.path.iterdir() if path.name != STORE]
        files = [
            found
            for path in outputs
            for found in ([path] if path.is_file() else sorted(path.rglob("*")))
            if found.is_file()
        ]
        self._upload(files)
        written = {self._key(file) for file in files}
        with translated_errors():
            for folder in (path for path in outputs if path.is_dir()):
                for page in obstore.list(self._objects, prefix=self._key(folder)):
                    stale = [one["path"] for one in page if one["path"] not in written]
                    if stale:
                        obstore.delete(self._objects, stale)

    def _upload(self, files: Sequence[Path]) -> None:
        import obstore

        from secondlook.store.object_blobs import translated_errors

        def put(file: Path) -> None:
            obstore.put(self._objects, self._key(file), file)

        with translated_errors(), ThreadPoolExecutor(UPLOADS) as threads:
            for _ in threads.map(put, files):
                pass

    def _key(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _refuse_foreign_objects(self) -> None:
        import obstore

        found = obstore.list_with_delimiter(self._objects)
        there = {*found["common_prefixes"], *(entry["path"] for entry in found["objects"])}
        made = (name for name in OWN_FILES if not name.startswith("."))
        if foreign := next((name for name in made if name in there), None):
            raise OutputExists(
                f"{self._url} has a {foreign} that was not written by a run; give another --out"
            )


def _shown(url: str) -> str:
    """A URL without its query, in which there may be keys."""
    return urlsplit(url)._replace(query="", netloc=urlsplit(url).hostname or "").geturl()
