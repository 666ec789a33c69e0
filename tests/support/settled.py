"""Jobs whose images are labelled, failed or still waiting, through the real queue."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stored import SETTINGS, labelled, street_ontology

from secondlook.core.types import Labelled

if TYPE_CHECKING:
    from secondlook.store import Store
    from secondlook.store.queue import JobRow

OWNER = "a server"


def street(*names: str) -> list[Labelled]:
    """Images with an accepted label; each one's bytes are its name."""
    return [labelled(name) for name in names]


def empty(*names: str) -> list[Labelled]:
    """Images on which everything was rejected."""
    return [labelled(name, answers={"On?": 0.01, "Off?": 0.01, "Dog?": 0.01}) for name in names]


def settled_job(
    store: "Store",
    name: str,
    results: Sequence[Labelled],
    failed: Sequence[str] = (),
    waiting: Sequence[str] = (),
    kind: str = "upload",
) -> "JobRow":
    """A job, done unless something waits; ``failed`` were never read, ``waiting`` are kept."""
    from secondlook.store.images import ImageMeasurement, NewImage, add_images, measure_images
    from secondlook.store.queue import FailedAttempt, NewItem, record_outcomes
    from secondlook_client.values import JobState

    queue = store.queue
    run_id = queue.create(name, kind, street_ontology(), settings=SETTINGS).run_id
    run = store.results.run(name)
    kept = [result.name for result in results] + list(waiting)
    news = [NewImage(store.blobs.put(n.encode()), len(n), "png") for n in kept]
    with store.database.writing() as connection:
        ids = add_images(connection, news)
    images = [ids[new.sha256] for new in news]
    new_items = [
        NewItem(key, n, len(n), image_id=image)
        for key, (n, image) in enumerate(zip(kept, images, strict=True))
    ]
    new_items += [NewItem(1000 + key, n, 5) for key, n in enumerate(failed)]
    queue.add(run_id, new_items)
    claimed = [queue.claim(OWNER, 60).run_id]
    while claimed[-1] != run_id:
        claimed.append(queue.claim(OWNER, 60).run_id)
    todo = {item.name: item.id for item in queue.next(run_id, 10_000)}
    with store.database.writing() as connection:
        done = {}
        for result, image in zip(results, images, strict=False):
            store.results.add(connection, run, [(todo[result.name], image, result)])
            measure_images(connection, [ImageMeasurement(image, result.width, result.height, 7)])
            done[todo[result.name]] = image
        failed_attempts = [FailedAttempt(todo[n], "bad_image", "it is no image") for n in failed]
        record_outcomes(connection, run_id, OWNER, done, failed_attempts)
    if not waiting:
        queue.close(run_id)
        queue.finish(run_id, OWNER, JobState.DONE)
    for number in claimed:
        queue.release(number, OWNER)
    return queue.get(name)
