// The whole image of an item with what was judged on it, and the editor of outlines.

import { useLayoutEffect, useRef } from "preact/hooks";
import type { ReviewItem } from "../api/messages";
import type { MaskBrush } from "../canvas/brush";
import { rectOf, type Rect } from "../canvas/geometry";
import { Viewer, type Point, type ShownBox } from "../canvas/viewer";
import { texts } from "../texts";
import { shownBox } from "../ui/parts";
import type { Pixels } from "./pixels";

interface Props {
  item: ReviewItem;
  pixels: Pixels | undefined;
  colours: Map<string, string>;
  /** Boxes that were added on this image in this session. */
  added: { className: string; rect: Rect }[];
  /** The outline that is edited; null: none. */
  edited: Rect | null;
  /** Whether a drag begins a new outline. */
  drawing: boolean;
  /** What clicks made: a mask, and where they were. */
  overlay: CanvasImageSource | null;
  points: readonly Point[];
  /** What the pointer paints with; null: nothing. */
  brush: MaskBrush | null;
  onEdit: (rect: Rect) => void;
  onStroke: () => void;
  /** A click while an outline is drawn, pixels of the image. */
  onClick: (x: number, y: number, inside: boolean) => void;
  /** Gives the viewer to the parent, for its keys. */
  hold: (viewer: Viewer | null) => void;
}

/** Labels and doubts on the image; the box that is asked about comes last, chosen. */
function boxesOf(props: Props): ShownBox[] {
  const { item, colours } = props;
  const place = Number(item.labelId?.split(".")[1] ?? -1);
  const others = (item.judgements ?? []).filter(
    (one, index) => index !== place && one.outcome !== "OUTCOME_REJECT" && !one.wholeImage,
  );
  const own = item.judgements?.[place] ?? item;
  return [
    ...others.map((one) => shownBox(one, colours)),
    ...props.added.map(({ className, rect }) => ({
      rect,
      colour: colours.get(className) ?? "#888888",
      style: "solid" as const,
      tag: className,
    })),
    {
      ...shownBox(own, colours),
      rect: rectOf(item.box),
      style: "solid",
      tag: item.className ?? "",
    },
  ];
}

export function ImagePane(props: Props) {
  const ref = useRef<HTMLCanvasElement>(null);
  const viewer = useRef<Viewer | null>(null);
  const latest = useRef(props);
  latest.current = props;
  useLayoutEffect(() => {
    const made = new Viewer(ref.current!, {
      onEdit: (rect) => latest.current.onEdit(rect),
      onStroke: () => latest.current.onStroke(),
      onPick: (_, x, y, event) => {
        const inside = event.button === 0 && !event.altKey;
        if (latest.current.drawing) latest.current.onClick(x, y, inside);
      },
    });
    viewer.current = made;
    props.hold(made);
    return () => {
      props.hold(null);
      made.close();
    };
  }, []);
  const { item, pixels, colours, added } = props;
  useLayoutEffect(() => {
    const boxes = pixels ? boxesOf(props) : [];
    viewer.current?.setBoxes(boxes, boxes.length - 1);
    viewer.current?.show(pixels?.image ?? null, item.width ?? 1, item.height ?? 1);
    viewer.current?.redrawLater();
  }, [item, pixels, colours, added]);
  useLayoutEffect(
    () => viewer.current?.edit(props.edited, props.drawing),
    [props.edited, props.drawing],
  );
  useLayoutEffect(
    () => viewer.current?.setMask(props.overlay, props.points),
    [props.overlay, props.points],
  );
  useLayoutEffect(() => viewer.current?.paintWith(props.brush), [props.brush]);
  const label = texts.review.image(item.imageName ?? "");
  return <canvas class="viewer" ref={ref} role="img" aria-label={label} />;
}
