"""The demo world: the same seed gives the same bytes, and the truth matches the image."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from secondlook.demo import world
from secondlook.demo.canvas import (
    CLUTTER,
    FACE,
    GLASSES,
    HELMET,
    PARTS,
    SHADOW,
    SUPERSAMPLE,
    Pen,
    Primitive,
    paint,
)
from secondlook.demo.identity import first_identity, recognisable, visible_box
from secondlook.demo.people import Wear, person
from secondlook.demo.staging import Figure, populate, set_stage
from secondlook.demo.world import (
    ATTRIBUTES,
    COLOURS,
    GROUPS,
    NOUNS,
    Scene,
    Thing,
    classes_of,
    scene,
    scene_masks,
)

TRAITS = {"glasses", "glasses on head", "helmet", "hat", "mask"}
CANVAS = (640, 480)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(2024, index) for index in range(150)]


def folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def block(noun: str | None, box: tuple[float, float, float, float], part: int = 0) -> Figure:
    pen = Pen((0.0, 0.0), 1.0)
    # A polygon's own last row and column are drawn, so the corner is one pixel short of the box.
    pen.rect((box[0], box[1], box[2] - 1, box[3] - 1), (200, 30, 30), part)
    return Figure(noun, None, Wear(), box[3], tuple(pen.primitives))


def someone(x: float, ground: float, height: float, wear: Wear) -> Figure:
    pen = Pen((x, ground), height)
    person(pen, np.random.default_rng(3), wear)
    return Figure("person", None, wear, ground, tuple(pen.primitives))


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        world.write_world(tmp_path / name, seed, 6, 192)
    digests = {name: folder_digest(tmp_path / name) for name in ("first", "again", "other")}
    assert digests["first"] == digests["again"] != digests["other"]


def test_a_scene_does_not_depend_on_the_ones_before(scenes: list[Scene]) -> None:
    alone = scene(2024, 17)
    assert np.array_equal(alone.image, scenes[17].image)
    assert alone.things == scenes[17].things


@pytest.mark.parametrize("size", [64, 200, 321, 640])
def test_longest_side_is_the_size(size: int) -> None:
    shapes = [scene(4, index, size).image.shape for index in range(4)]
    assert all(max(shape[:2]) == size and shape[2] == 3 for shape in shapes)


def test_shapes_vary_and_stay_in_range(scenes: list[Scene]) -> None:
    ratios = [s.image.shape[1] / s.image.shape[0] for s in scenes]
    assert all(0.59 <= ratio <= 1.68 for ratio in ratios)
    assert min(ratios) < 0.7 and max(ratios) > 1.5 and 1.0 in ratios


def test_a_size_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 pixels, got 63"):
        scene(0, 0, 63)


def test_boxes_lie_inside_and_are_large_enough(scenes: list[Scene]) -> None:
    for rendered in scenes:
        height, width = rendered.image.shape[:2]
        for thing in rendered.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
            assert max(x1 - x0, y1 - y0) >= 8
            if thing.noun == "person":
                assert y1 - y0 >= 40
            if thing.noun == "glasses":
                assert x1 - x0 >= 8 and y1 - y0 >= 3


def test_values_are_the_documented_ones(scenes: list[Scene]) -> None:
    for thing in (thing for rendered in scenes for thing in rendered.things):
        assert thing.noun in NOUNS
        assert (thing.colour in COLOURS) == (thing.noun in ("car", "ball", "helmet"))
        assert thing.traits <= (TRAITS if thing.noun == "person" else set())
        assert not {"glasses", "glasses on head"} <= thing.traits
        assert not {"helmet", "glasses on head"} <= thing.traits
        assert not {"helmet", "hat"} <= thing.traits


def test_what_is_worn_has_its_own_box_on_the_head(scenes: list[Scene]) -> None:
    seen = 0
    for rendered in scenes:
        things = rendered.things
        for place, wearer in enumerate(things):
            worn = [things[i] for i in range(place + 1, min(place + 3, len(things)))]
            for trait, noun in (("glasses", "glasses"), ("helmet", "helmet")):
                if trait not in wearer.traits:
                    continue
                item = next(thing for thing in worn if thing.noun == noun)
                seen += 1
                x0, y0, x1, y1 = wearer.box
                assert x0 <= item.box[0] and item.box[2] <= x1 and y0 <= item.box[1]
                # A head takes at most 0.3 of the height; a person cut by the border shows less
                # of the body, never less of the head.
                assert (item.box[1] + item.box[3]) / 2 < y0 + 0.62 * (y1 - y0)
    assert seen > 150


def test_glasses_on_the_eyes_sit_lower_than_glasses_on_the_head() -> None:
    heights = []
    for wear in (Wear(glasses=True), Wear(glasses_on_head=True)):
        figure = someone(320, 460, 400, wear)
        figures, ids = recognisable([figure], CANVAS, 1.0)
        box = visible_box(figures[0], first_identity(0), (GLASSES,), ids)
        heights.append((box[1] + box[3]) / 2)
    head = 400 * 0.27 / SUPERSAMPLE
    assert 0.25 * head < heights[0] - heights[1] < 0.6 * head


def test_box_is_the_visible_part_of_a_half_hidden_block() -> None:
    back, front = block("car", (100, 100, 300, 200)), block("tree", (220, 80, 400, 260))
    figures, ids = recognisable([back, front], CANVAS, 1.0)
    assert visible_box(figures[0], first_identity(0), range(PARTS), ids) == (50, 50, 110, 100)
    assert visible_box(figures[1], first_identity(1), range(PARTS), ids) == (110, 40, 200, 130)


def test_clutter_hides_and_shadows_do_not() -> None:
    back = block("car", (100, 100, 300, 200))
    for part, right in ((CLUTTER, 110), (SHADOW, 150)):
        figures, ids = recognisable([back, block(None, (220, 80, 400, 260), part)], CANVAS, 1.0)
        assert visible_box(figures[0], first_identity(0), range(PARTS), ids)[2] == right


@pytest.mark.parametrize(
    ("covered_from", "kept"), [(100 + 0.36 * 200, True), (100 + 0.33 * 200, False)]
)
def test_a_thing_that_shows_less_than_its_share_is_taken_out(
    covered_from: float, kept: bool
) -> None:
    back, front = block("car", (100, 100, 300, 200)), block("tree", (covered_from, 80, 400, 260))
    figures, ids = recognisable([back, front], CANVAS, 1.0)
    assert (back in figures) == kept
    assert len(np.unique(ids)) == 2 + kept


@pytest.mark.parametrize(("part", "wear"), [(GLASSES, Wear(glasses=True)), (FACE, Wear())])
def test_a_person_whose_face_or_glasses_are_hidden_is_taken_out(part: int, wear: Wear) -> None:
    figure = someone(320, 460, 400, wear)
    _, ids = recognisable([figure], CANVAS, 1.0)
    x0, y0, x1, y1 = (v * SUPERSAMPLE for v in visible_box(figure, first_identity(0), (part,), ids))
    half = block(None, (x0, y0, x0 + 0.5 * (x1 - x0), y1), CLUTTER)
    body = block(None, (200.0, 300.0, 440.0, 420.0), CLUTTER)
    assert recognisable([figure, half], CANVAS, 1.0)[0] == [half]
    assert recognisable([figure, body], CANVAS, 1.0)[0] == [figure, body]


def test_a_head_cut_by_the_border_takes_the_person_out() -> None:
    assert recognisable([someone(20, 460, 400, Wear())], CANVAS, 1.0)[0] == []


@pytest.mark.parametrize("seed", range(8))
def test_boxes_hold_exactly_the_pixels_that_a_thing_changes(seed: int) -> None:
    """Colours decide here, not identities: without a thing, what changes fills its box."""
    rng = np.random.default_rng(seed)
    figures, ids = recognisable(populate(rng, set_stage(rng, *CANVAS, 320)), CANVAS, 1.0)

    def colours(left_out: Figure | None) -> np.ndarray:
        image = Image.new("RGB", CANVAS, (255, 0, 255))
        for figure in figures:
            if figure is not left_out:
                # Opaque, because a clear lens shows, but hides, what is behind it.
                solid = (replace(s, fill=s.fill[:3]) for s in figure.primitives if s.part != SHADOW)
                paint(image, solid)
        return np.asarray(image).astype(int)

    whole = colours(None)
    for order, figure in enumerate(figures):
        if figure.noun is None:
            continue
        changed = np.abs(colours(figure) - whole).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        box = visible_box(figure, first_identity(order), range(PARTS), ids)
        assert np.allclose(np.array(found) / SUPERSAMPLE, box, atol=0)


def test_base_rates(scenes: list[Scene]) -> None:
    counts = np.array([len(rendered.things) for rendered in scenes])
    people = [t for rendered in scenes for t in rendered.things if t.noun == "person"]

    def rate(trait: str) -> float:
        return sum(trait in t.traits for t in people) / len(people)

    assert 7 <= counts.mean() <= 12
    assert 2 <= len(people) / len(scenes) <= 4
    assert 0 < np.mean(counts == 0) < 0.08
    assert rate("glasses") == pytest.approx(0.4, abs=0.07)
    assert rate("glasses on head") == pytest.approx(0.16, abs=0.05)
    assert rate("helmet") == pytest.approx(0.25, abs=0.07)
    assert rate("hat") == pytest.approx(0.17, abs=0.06)
    assert rate("mask") == pytest.approx(0.12, abs=0.05)
    for noun in NOUNS:
        assert sum(t.noun == noun for rendered in scenes for t in rendered.things) >= 60


@pytest.mark.parametrize(
    ("thing", "names"),
    [
        (
            Thing("person", (0, 0, 9, 9), None, frozenset({"glasses", "helmet"})),
            ("person", "person wearing glasses", "person wearing a helmet"),
        ),
        (
            Thing("person", (0, 0, 9, 9), None, frozenset({"glasses on head"})),
            ("person", "person not wearing glasses"),
        ),
        (Thing("car", (0, 0, 9, 9), "red", frozenset()), ("car", "red car")),
        (Thing("car", (0, 0, 9, 9), "blue", frozenset()), ("car",)),
        (Thing("ball", (0, 0, 9, 9), "blue", frozenset()), ("ball", "blue ball")),
        (Thing("glasses", (0, 0, 9, 9), None, frozenset()), ("glasses",)),
    ],
)
def test_classes_of(thing: Thing, names: tuple[str, ...]) -> None:
    assert classes_of(thing) == names


def test_written_truth_is_coco_and_matches_the_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    world.write_world(tmp_path, 11, 5, 160, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(i, 5) for i in range(1, 6)]
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert [c["name"] for c in truth["categories"]] == [*NOUNS, *ATTRIBUTES]
    number = {c["name"]: c["id"] for c in truth["categories"]}
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"]) > 0
    for index, entry in enumerate(truth["images"]):
        with Image.open(tmp_path / "images" / entry["file_name"]) as image:
            assert image.size == (entry["width"], entry["height"])
        expected = [
            (number[name], [t.box[0], t.box[1], t.box[2] - t.box[0], t.box[3] - t.box[1]])
            for t in scene(11, index, 160).things
            for name in classes_of(t)
        ]
        own = [a for a in truth["annotations"] if a["image_id"] == entry["id"]]
        assert [(a["category_id"], a["bbox"]) for a in own] == expected
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in own)


def test_ontology_names_every_class_with_its_question() -> None:
    classes = yaml.safe_load(world.ontology_yaml())["classes"]
    assert list(classes) == [*NOUNS, *ATTRIBUTES]
    assert classes["person"] == {} and classes["glasses"] == {"question": "Are these glasses?"}
    for name, attribute in ATTRIBUTES.items():
        assert classes[name]["phrases"] == [attribute.noun]
        assert classes[name]["question"] == attribute.question
        assert classes[name].get("group") == GROUPS.get(name)


def test_worn_parts_have_identities_of_their_own() -> None:
    figure = someone(320, 460, 400, Wear(glasses=True, helmet="red"))
    parts = {primitive.part for primitive in figure.primitives if isinstance(primitive, Primitive)}
    assert {GLASSES, HELMET} <= parts


class TestMasks:
    def test_masks_agree_with_boxes_to_the_pixel(self) -> None:
        apart = []
        for index in range(12):
            rendered, masks = scene_masks(2024, index)
            assert masks.shape == (len(rendered.things), *rendered.image.shape[:2])
            for thing, mask in zip(rendered.things, masks, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                tight = np.array([columns[0], rows[0], -columns[-1] - 1, -rows[-1] - 1])
                x0, y0, x1, y1 = thing.box
                outwards = np.floor([x0, y0, -x1, -y1])
                assert (tight >= outwards).all()
                apart.append(int((tight - outwards).max()))
        assert len(apart) > 60
        # A strand of hair may be thinner than half a pixel.
        assert np.mean([distance > 1 for distance in apart]) < 0.02

    def test_the_scene_is_that_of_the_world(self) -> None:
        rendered, _ = scene_masks(2024, 3)
        assert rendered.things == scene(2024, 3).things
        assert np.array_equal(rendered.image, scene(2024, 3).image)

    def test_what_is_worn_belongs_to_the_person(self) -> None:
        rendered, masks = scene_masks(2024, 1)
        people = masks[[thing.noun == "person" for thing in rendered.things]].any(0)
        worn = [k for k, thing in enumerate(rendered.things) if thing.noun == "glasses"]
        assert worn
        assert not (masks[worn].any(0) & ~people).any()

    def test_nouns_can_be_left_out(self) -> None:
        full, _ = scene_masks(2024, 0)
        part, masks = scene_masks(2024, 0, without=frozenset({"person"}))
        assert "person" in {thing.noun for thing in full.things}
        assert "person" not in {thing.noun for thing in part.things}
        assert len(masks) == len(part.things)
