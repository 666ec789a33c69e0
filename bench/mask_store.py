"""Masks in the store: what 100,000 of them take, and deciding them again without a model.

The masks are the true ones of scenes of the demo world (mirrored, turned and repeated),
packed with the rest of their images' evidence: what is counted is how much longer that gets, with
quality, stability and the name of the model. Scenes are rendered at two sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.paired_timing import Figure, against, paired
from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Evidence, Proposals
from secondlook.demo.world import scene_masks
from secondlook.review.redecide import BatchDecider
from secondlook.store.bulk import pack_many, unpack_many
from secondlook.store.codec import pack_evidence
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec, Ontology

SEED = 15_501
MASKS = 100_000
SIZES = (320, 640)
SCENES = 150
"""Rendered at each size; each is seen in eight ways."""
BAR_BYTES = 300.0
MIN_PIXELS = 16
DECIDED = 1000
"""Images that are decided again in one round."""
ONTOLOGY = Ontology((ClassSpec("thing", box="mask"),))  # type: ignore[arg-type]


def run() -> list[Figure | str]:
    """Bytes a mask, and how much slower deciding again gets."""
    lines = ["| image | masks | bytes a mask: median | mean | 95 % |", "|---|---|---|---|---|"]
    every: list[float] = []
    kept: list[tuple[Evidence, Evidence]] = []
    for size in SIZES:
        found = list(_evidences(size))
        costs = [cost for pair in found for cost in _costs(*pair)]
        repeated = costs * max(1, -(-MASKS // (len(SIZES) * len(costs))))
        some = repeated[: MASKS // len(SIZES)]
        lines.append(
            f"| {size} px | {len(some):,} ({len(costs):,} distinct) | {np.median(some):.0f} "
            f"| {np.mean(some):.0f} | {np.percentile(some, 95):.0f} |"
        )
        every += some
        kept += found
    median = float(np.median(every))
    stored = against(f"bytes a mask, median of {len(every):,}", median, BAR_BYTES, "bytes")
    return [stored, _decided_again(kept[:DECIDED]), "\n".join(lines)]


def _evidences(size: int) -> Iterator[tuple[Evidence, Evidence]]:
    """Of each view of each scene: evidence without masks, and with them."""
    for index in range(SCENES):
        _, masks = scene_masks(SEED, index, size)
        masks = masks[masks.sum(axis=(1, 2)) >= MIN_PIXELS]
        for turns in range(4):
            for seen in (np.rot90(masks, turns, (1, 2)), np.rot90(masks[..., ::-1], turns, (1, 2))):
                if len(seen):
                    yield _evidence(seen)


def _evidence(masks: NDArray[np.bool_]) -> tuple[Evidence, Evidence]:
    random = np.random.default_rng(len(masks))
    found = [Mask.from_array(pixels) for pixels in masks]
    boxes = np.array([mask.box for mask in found], dtype=np.float32)
    scores = random.uniform(0.3, 1, (len(found), 1)).astype(np.float32)
    measured = random.random((len(found), 2), dtype=np.float32).tolist()
    without = Evidence(Proposals(boxes, scores), {}, "proposer@1", "")
    segmentations = {
        row: Segmentation(mask, quality, stability, "segmenter@0123456789ab")
        for row, (mask, (quality, stability)) in enumerate(zip(found, measured, strict=True))
    }
    return without, replace(
        without, segmenter="segmenter@0123456789ab", segmentations=segmentations
    )


def _costs(without: Evidence, masked: Evidence) -> Sequence[float]:
    """Bytes of each mask of an image: of all of them an equal share."""
    packed = [len(pack_evidence(one, ONTOLOGY)) for one in (without, masked)]
    amount = len(masked.segmentations)
    return [(packed[1] - packed[0]) / amount] * amount


def _decided_again(kept: Sequence[tuple[Evidence, Evidence]]) -> Figure:
    """Images a second with masks, each label with the box of its mask, and without."""
    columns = columns_for(ONTOLOGY, ONTOLOGY)
    decider = BatchDecider(ONTOLOGY, ONTOLOGY, columns, 0.6, verified=False)

    def side(packed: Sequence[bytes]) -> int:
        return len(pack_many(decider.decide(unpack_many(packed, ONTOLOGY))))

    without, masked = ([pack_evidence(pair[which], ONTOLOGY) for pair in kept] for which in (0, 1))
    name = "deciding again with `box: mask` / without masks"
    return paired(name, lambda: side(masked), lambda: side(without), at_least=0.0, unit="images/s")
