"""``BrowseService``: each call is checked, answered from the store, and changes nothing."""

from functools import partial
from typing import Any

from secondlook.jobs.guarantee_checks import checks_status
from secondlook.review.browse import RunBrowser
from secondlook.review.compare_runs import compare_part
from secondlook.review.explain import explain
from secondlook.review.guarantees import guarantee_status, guaranteed_classes
from secondlook.review.preview import Preview
from secondlook.server.browse_messages import (
    DEFAULT_IMAGES,
    MAX_IMAGES,
    comparison_message,
    covered_filter,
    explanation_message,
    guarantee_details,
    guarantee_message,
    image_details,
    image_filter,
    image_order,
    image_page,
    preview_message,
    preview_rules,
    run_details,
    run_message,
    stream_message,
    summary_message,
    wanted_measures,
)
from secondlook.server.store_calls import StoreServicer, next_token, page_of
from secondlook.store import Store
from secondlook.store.reviews import reviews_of
from secondlook.store.runs import count_runs, page_of_runs
from secondlook.store.streams import captured_streams
from secondlook_client.errors import BadRequest
from secondlook_client.private_files import is_sha256
from secondlook_client.v1 import browse_pb2 as pb
from secondlook_client.v1 import browse_pb2_grpc

MAX_COMPARED = 100
"""Images that one call of ``CompareRuns`` gives."""
THREADS = 4
"""Calls that are answered at the same time: most of each is computing."""


class BrowseServicer(StoreServicer, browse_pb2_grpc.BrowseServiceServicer):
    """``BrowseService`` over a store; without one, every call is refused."""

    def __init__(self, store: Store | None) -> None:
        super().__init__(store, "runs", THREADS)
        self._browser = RunBrowser(store) if store else None

    async def ListRuns(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.ListRunsRequest, context: Any
    ) -> pb.ListRunsResponse:
        """A page of runs, the newest first."""
        store, text = self._store, request.text
        size, before = page_of(request.page_size, request.page_token, "ListRuns")

        def listed() -> pb.ListRunsResponse:
            with store.database.reading() as connection:
                found = page_of_runs(connection, before, size + 1, text)
            token = next_token([one.run for one in found], size)
            return pb.ListRunsResponse(runs=map(run_message, found[:size]), next_page_token=token)

        return await self._in_thread(listed)

    async def GetRun(  # noqa: N802
        self, request: pb.GetRunRequest, context: Any
    ) -> pb.GetRunResponse:
        """One run."""
        store = self._store

        def found() -> pb.GetRunResponse:
            run = store.results.run(request.run)
            with store.database.reading() as connection:
                (count,) = count_runs(connection, [run])
            methods = store.uncertainties.methods(run.id)
            return run_details(count, [one.method for one in methods])

        return await self._in_thread(found)

    async def ListRunImages(  # noqa: N802
        self, request: pb.ListRunImagesRequest, context: Any
    ) -> pb.ListRunImagesResponse:
        """Images of a run from any place of a list on."""
        store, browser = self._store, self._known_browser
        wanted, order = image_filter(request.filter), image_order(request.order)
        size, _ = page_of(request.page_size, "", "ListRunImages", MAX_IMAGES, DEFAULT_IMAGES)

        def listed() -> pb.ListRunImagesResponse:
            run = store.results.run(request.run)
            covered = partial(guaranteed_classes, store, run)
            page = browser.images(
                run,
                covered_filter(wanted, request.filter, covered),
                order,
                request.reverse,
                request.offset,
                size,
                with_evidence=bool(request.boxes),
            )
            return image_page(page, request.boxes)

        return await self._in_thread(listed)

    async def SummarizeRun(  # noqa: N802
        self, request: pb.SummarizeRunRequest, context: Any
    ) -> pb.SummarizeRunResponse:
        """Counts and histograms."""
        store, browser, wanted = self._store, self._known_browser, image_filter(request.filter)
        measures = wanted_measures(request.histograms)

        def summary() -> pb.SummarizeRunResponse:
            run = store.results.run(request.run)
            covered = partial(guaranteed_classes, store, run)
            narrowed = covered_filter(wanted, request.filter, covered)
            return summary_message(browser.summary(run, narrowed, measures), run)

        return await self._in_thread(summary)

    async def GetRunImages(  # noqa: N802
        self, request: pb.GetRunImagesRequest, context: Any
    ) -> pb.GetRunImagesResponse:
        """Some images whole."""
        store = self._store
        for sha256 in request.sha256:
            _check_sha256(sha256)
        return await self._in_thread(lambda: _details(store, request))

    async def ExplainLabel(  # noqa: N802
        self, request: pb.ExplainLabelRequest, context: Any
    ) -> pb.ExplainLabelResponse:
        """One label."""
        store = self._store
        return await self._in_thread(lambda: explanation_message(explain(store, request.label_id)))

    async def CompareRuns(  # noqa: N802
        self, request: pb.CompareRunsRequest, context: Any
    ) -> pb.CompareRunsResponse:
        """What differs on a part of two runs."""
        store = self._store
        size, _ = page_of(request.page_size, "", "CompareRuns", MAX_COMPARED)

        def compared() -> pb.CompareRunsResponse:
            part = compare_part(store, request.before, request.after, request.cursor, size)
            return comparison_message(part)

        return await self._in_thread(compared)

    async def PreviewDecisions(  # noqa: N802
        self, request: pb.PreviewDecisionsRequest, context: Any
    ) -> pb.PreviewDecisionsResponse:
        """What other rules would decide."""
        store, rules = self._store, preview_rules(request)

        def decided() -> pb.PreviewDecisionsResponse:
            run = store.results.run(request.run)
            preview = Preview(store, run, rules)
            images = preview.images(request.cursors)
            counts = preview.counts() if request.count else None
            return preview_message(request.cursors, images, counts, run)

        return await self._in_thread(decided)

    async def ListGuarantees(  # noqa: N802
        self, request: pb.ListGuaranteesRequest, context: Any
    ) -> pb.ListGuaranteesResponse:
        """Guarantees, the newest first."""
        store = self._store
        size, _ = page_of(request.page_size, "", "ListGuarantees")

        def listed() -> pb.ListGuaranteesResponse:
            rows = store.guarantees.page(limit=size)
            found = [guarantee_message(row, checks_status(store, row)) for row in rows]
            return pb.ListGuaranteesResponse(guarantees=found)

        return await self._in_thread(listed)

    async def GetGuarantee(  # noqa: N802
        self, request: pb.GetGuaranteeRequest, context: Any
    ) -> pb.GetGuaranteeResponse:
        """One guarantee whole."""
        store, name = self._store, request.name

        def found() -> pb.GetGuaranteeResponse:
            status = guarantee_status(store, name)
            return guarantee_details(status, checks_status(store, status.row))

        return await self._in_thread(found)

    async def ListStreams(  # noqa: N802
        self, request: pb.ListStreamsRequest, context: Any
    ) -> pb.ListStreamsResponse:
        """A page of captured streams, the newest first."""
        store = self._store
        size, before = page_of(request.page_size, request.page_token, "ListStreams")

        def listed() -> pb.ListStreamsResponse:
            with store.database.reading() as connection:
                found = captured_streams(connection, before, size + 1)
            token = next_token([one.job for one in found], size, "run_id")
            streams = map(stream_message, found[:size])
            return pb.ListStreamsResponse(streams=streams, next_page_token=token)

        return await self._in_thread(listed)

    @property
    def _known_browser(self) -> RunBrowser:
        assert self._browser is not None  # the store was asked for before
        return self._browser


def _details(store: Store, request: pb.GetRunImagesRequest) -> pb.GetRunImagesResponse:
    run = store.results.run(request.run)
    by_image = store.results.cursors_of_images(run, request.sha256)
    cursors = [*request.cursors, *(by_image[s] for s in request.sha256 if s in by_image)]
    found = store.results.some(run, cursors)
    measured = store.uncertainties.of_results([*found])
    with store.database.reading() as connection:
        reviews = reviews_of(connection, [result.image_id for result in found.values()])
    return pb.GetRunImagesResponse(
        images=[
            image_details(found[cursor], measured[cursor], reviews.get(found[cursor].image_id, []))
            for cursor in dict.fromkeys(cursors)
            if cursor in found
        ]
    )


def _check_sha256(sha256: str) -> None:
    if not is_sha256(sha256):
        raise BadRequest(f"expected hashes of 64 hex digits, got '{sha256:.80}'", field="sha256")
