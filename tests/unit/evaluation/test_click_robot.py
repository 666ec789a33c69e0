"""The robot that clicks: against scripted segmenters of which the right figures are known."""

import numpy as np
import pytest
from fakes import ScriptedSegmenter, make_image
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.evaluation.click_robot import (
    AT_LEAST,
    MAX_CLICKS,
    RobotSession,
    mask_iou,
    next_click,
    score_sessions,
    segment_by_clicks,
)
from secondlook.labeling.segmenter import SegmentationPrompt

WIDTH, HEIGHT = 60, 48


def rectangle(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def disc(x, y, radius):
    ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def discs(radius):
    """A script that paints a disc around each click and erases one around those outside."""

    def script(prompt, size):
        mask = np.zeros(size[::-1], bool)
        for x, y in prompt.inside:
            mask |= disc(x, y, radius)
        for x, y in prompt.outside:
            mask &= ~disc(x, y, radius)
        return mask

    return script


def sessions(script, truths, starts=(), jitter=None):
    segmenter = ScriptedSegmenter(script)
    (encoding,) = segmenter.encode([make_image("", WIDTH, HEIGHT)])
    found = segment_by_clicks(segmenter, encoding, np.array(truths), starts, jitter)
    return found, segmenter


TRUTH = rectangle(10, 8, 30, 40)


def test_a_perfect_segmenter_needs_one_click_in_the_middle():
    (session,), segmenter = sessions(lambda prompt, size: TRUTH, [TRUTH])
    assert session.ious == (1.0,)
    assert session.clicks_to(0.85) == session.clicks_to(0.9) == 1
    ((x, y), inside) = session.clicks[0]
    assert inside and 18 <= x <= 22 and 17 <= y <= 31
    assert segmenter.prompts[0].inside == ((x, y),) and segmenter.prompts[0].previous is None


def test_a_blind_segmenter_is_given_up():
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    (session,), _ = sessions(lambda prompt, size: nothing, [TRUTH])
    assert len(session.clicks) == MAX_CLICKS == session.clicks_to(0.85)
    assert len(set(session.clicks)) == MAX_CLICKS  # the same pixel again would say nothing new
    scores = score_sessions([session])
    assert scores.noc90 == MAX_CLICKS and scores.missed90 == 1 and scores.after5 == 0


def test_discs_are_put_together_click_by_click():
    (session,), segmenter = sessions(discs(6), [TRUTH])
    assert list(session.ious[:5]) == sorted(session.ious[:5]) and session.clicks_to(0.6) == 5
    before, after = segmenter.prompts[0], segmenter.prompts[1]
    assert set(before.inside) < set(after.inside)
    assert mask_iou(after.previous, TRUTH) == pytest.approx(session.ious[0])


def test_the_larger_wrong_region_is_clicked_at_on_its_own_side():
    too_far = TRUTH | rectangle(30, 8, 50, 40)
    (x, y), inside = next_click(TRUTH, too_far)
    assert not inside and 38 <= x <= 42 and not TRUTH[int(y), int(x)]
    lacking = TRUTH & ~rectangle(10, 8, 16, 40) | rectangle(30, 8, 32, 40)
    (x, y), inside = next_click(TRUTH, lacking)
    assert inside and 12 <= x <= 14 and TRUTH[int(y), int(x)]
    assert next_click(TRUTH, TRUTH) is None


def test_the_border_of_the_image_is_a_border():
    (x, y), _ = next_click(rectangle(0, 0, 20, 20), None)
    assert 9 <= x <= 11 and 9 <= y <= 11


def test_a_box_comes_before_the_first_click():
    box = (10.0, 8.0, 30.0, 40.0)
    (session,), segmenter = sessions(None, [TRUTH], [SegmentationPrompt(box=box)])
    assert session.start == pytest.approx(np.pi / 4, abs=0.02)
    assert segmenter.prompts[0].box == box and not segmenter.prompts[0].inside
    assert segmenter.prompts[1].box == box and segmenter.prompts[1].previous is not None
    assert session.iou_after(0) == session.start


def test_a_good_box_needs_no_click():
    start = SegmentationPrompt(box=(10.0, 8.0, 30.0, 40.0))
    (session,), _ = sessions(lambda prompt, size: TRUTH, [TRUTH], [start])
    assert session.clicks == () and session.clicks_to(0.9) == 0
    assert session.iou_after(3) == 1 and score_sessions([session]).noc85 == 0


def test_a_mask_starts_as_it_is():
    start = SegmentationPrompt(previous=rectangle(10, 8, 30, 24))
    (session,), segmenter = sessions(lambda prompt, size: TRUTH, [TRUTH], [start])
    assert session.start == 0.5 and session.ious == (1.0,)
    assert segmenter.prompts[0].inside and segmenter.prompts[0].previous is start.previous


def test_objects_of_an_image_are_asked_about_together():
    other = rectangle(40, 8, 56, 30)
    both, segmenter = sessions(discs(14), [TRUTH, other])
    alone = [sessions(discs(14), [truth])[0][0] for truth in (TRUTH, other)]
    assert both == alone
    assert len(segmenter.encoded) == 1


def test_a_good_mask_is_clicked_at_for_the_curve_only():
    nearly = TRUTH & ~rectangle(10, 8, 30, 10)
    (session,), _ = sessions(lambda prompt, size: nearly, [TRUTH])
    assert session.clicks_to(0.9) == 1 and len(session.clicks) == AT_LEAST


def test_people_miss_the_middle_but_not_the_object():
    clicks = set()
    for seed in range(30):
        (point, inside) = next_click(TRUTH, None, (), np.random.default_rng(seed))
        assert inside and TRUTH[int(point[1]), int(point[0])]
        clicks.add(point)
    xs = np.array([x for x, _ in clicks])
    assert len(clicks) > 20 and xs.std() > 2


def test_figures_are_means_over_objects():
    good = RobotSession((0.95,), (((1.0, 1.0), True),))
    slow = RobotSession((0.5, 0.88, 0.86, 0.855, 0.92, 0.9), ())
    scores = score_sessions([good, slow])
    assert (scores.noc85, scores.noc90) == (1.5, 3)
    assert scores.after1 == pytest.approx(0.725) and scores.after5 == pytest.approx(0.935)
    assert (scores.declines, scores.harmful, scores.harmful_after) == (0.5, 0.25, 1)
    assert scores.start is None and scores.missed90 == 0


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="no session"):
        score_sessions([])
    with pytest.raises(ValueError, match="without a pixel"):
        sessions(None, [np.zeros((HEIGHT, WIDTH), bool)])
    with pytest.raises(ValueError, match="no mask before"):
        RobotSession((0.5,), ()).iou_after(0)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 55), st.integers(0, 43)), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_every_click_is_on_the_side_it_says(places, seed, shaky):
    truth = np.zeros((HEIGHT, WIDTH), bool)
    for x, y in places:
        truth[y : y + 5, x : x + 5] = True
    mask = np.random.default_rng(seed).random(truth.shape) < 0.5
    jitter = np.random.default_rng(seed) if shaky else None
    found = next_click(truth, mask, [], jitter)
    assert found is not None
    (x, y), inside = found
    assert truth[int(y), int(x)] == inside and mask[int(y), int(x)] != inside
