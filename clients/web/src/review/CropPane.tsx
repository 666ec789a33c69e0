// The box that is asked about, as large as it can be shown.

import { useLayoutEffect, useRef } from "preact/hooks";
import type { ReviewItem } from "../api/messages";
import { fitted, rectOf } from "../canvas/geometry";
import { texts } from "../texts";
import type { Pixels } from "./pixels";

/** A small object is not enlarged more than this. */
const MOST_ZOOM = 10;

/** As many pixels as the canvas takes on the screen. */
function measure(canvas: HTMLCanvasElement): void {
  const ratio = window.devicePixelRatio || 1;
  const across = Math.max(Math.round(canvas.clientWidth * ratio), 1);
  const down = Math.max(Math.round(canvas.clientHeight * ratio), 1);
  // To set a size is to make the canvas anew, even where it is the same.
  if (canvas.width !== across) canvas.width = across;
  if (canvas.height !== down) canvas.height = down;
}

function paint(canvas: HTMLCanvasElement, item: ReviewItem, pixels: Pixels, colour: string): void {
  const ratio = window.devicePixelRatio || 1;
  const context = canvas.getContext("2d")!;
  context.clearRect(0, 0, canvas.width, canvas.height);
  const { window: around, crop } = pixels;
  const at = fitted(around, canvas.width, canvas.height, MOST_ZOOM * ratio);
  const [width, height] = [around.x2 - around.x1, around.y2 - around.y1];
  // Only where pixels are left out a better filter is seen; it takes five times as long.
  context.imageSmoothingQuality = at.scale < 1 ? "medium" : "low";
  context.drawImage(
    crop,
    around.x1 * at.scale + at.x,
    around.y1 * at.scale + at.y,
    width * at.scale,
    height * at.scale,
  );
  const box = rectOf(item.box);
  const [x, y] = [box.x1 * at.scale + at.x, box.y1 * at.scale + at.y];
  const [w, h] = [(box.x2 - box.x1) * at.scale, (box.y2 - box.y1) * at.scale];
  context.strokeStyle = "rgb(0 0 0 / 60%)";
  context.lineWidth = 5 * ratio;
  context.strokeRect(x, y, w, h);
  context.strokeStyle = colour;
  context.lineWidth = 2.5 * ratio;
  context.strokeRect(x, y, w, h);
}

interface Props {
  item: ReviewItem;
  pixels: Pixels | undefined;
  colour: string;
}

export function CropPane({ item, pixels, colour }: Props) {
  const ref = useRef<HTMLCanvasElement>(null);
  const draw = () => {
    const canvas = ref.current!;
    if (pixels) paint(canvas, item, pixels, colour);
    else canvas.getContext("2d")!.clearRect(0, 0, canvas.width, canvas.height);
    canvas.dataset["item"] = pixels ? item.id : "";
  };
  const latest = useRef(draw);
  latest.current = draw;
  // Measured only when it changes: a size that is asked for lays the whole page out at once.
  useLayoutEffect(() => {
    const resized = () => {
      measure(ref.current!);
      latest.current();
    };
    resized();
    const observer = new ResizeObserver(resized);
    observer.observe(ref.current!);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => latest.current(), [item, pixels, colour]);
  const label = texts.review.crop(item.className ?? "");
  return <canvas class="crop" ref={ref} role="img" aria-label={label} />;
}
