"""A page of the images that a selection chose, and why."""

from pathlib import Path

from secondlook.config.settings import ImageSettings
from secondlook.reports.gallery import KINDS, OUTCOMES, page_box
from secondlook.reports.page import write_page
from secondlook.reports.viewer import PageImage, PageView, viewer_values
from secondlook.review.image_pool import RunPool
from secondlook.review.pages import image_loader
from secondlook.selection.strategies import ChosenImage, PoolSelection
from secondlook.store import Store
from secondlook.store.runs import Run

ORDERS = ("most wanted",)


def write_selection_page(
    path: Path,
    store: Store,
    run: Run,
    found: RunPool,
    selection: PoolSelection,
    shown: int,
    limits: ImageSettings,
) -> Path:
    """Write the first ``shown`` chosen images, with what was judged on each."""
    some = selection.chosen[:shown]
    images = [_page_image(store, found, rank, one) for rank, one in enumerate(some)]
    sha256s = [found.images[one.place].sha256 for one in some]
    view = PageView(KINDS, run.ontology.names, ORDERS)
    return write_page(
        path,
        "selection.html",
        title=f"Images chosen from {run.name}",
        about=f"strategy: {selection.strategy}",
        figures=[
            ("images chosen", f"{len(selection.chosen):,}"),
            ("to choose from", f"{selection.pool:,}"),
            ("reviewed before", f"{found.reviewed:,}"),
        ],
        advice=selection.advice,
        reasons=[(found.images[one.place].name, one.reason) for one in some],
        count=len(selection.chosen),
        **viewer_values(images, image_loader(store.blobs, images, sha256s, limits), view),
    )


def _page_image(store: Store, found: RunPool, rank: int, chosen: ChosenImage) -> PageImage:
    result = store.results.decided(found.images[chosen.place].cursor)
    labelled = result.labelled
    boxes = [
        page_box(one, OUTCOMES.index(one.outcome), label_id=result.label_id(place))
        for place, one in enumerate(labelled.judgements)
    ]
    name = found.images[chosen.place].name
    return PageImage(
        name, labelled.width, labelled.height, boxes, ranks=(rank,), note=chosen.reason
    )
