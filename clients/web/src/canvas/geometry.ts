// Boxes in pixels of the image, and how an image lies on a canvas. No DOM here.

import type { Box } from "../api/messages";

/** Corners in pixels of the upright image; x2 > x1 and y2 > y1. */
export interface Rect {
  x1: number;
  y1: number;
  x2: number;
  y2: number;
}

/** Canvas pixel = image pixel * scale + offset. */
export interface Placement {
  scale: number;
  x: number;
  y: number;
}

/** What of a box is held by the pointer: a corner, a side, or all of it. */
export type Handle = "nw" | "n" | "ne" | "e" | "se" | "s" | "sw" | "w" | "all";

const HANDLES: [Handle, number, number][] = [
  ["nw", 0, 0],
  ["ne", 1, 0],
  ["se", 1, 1],
  ["sw", 0, 1],
  ["n", 0.5, 0],
  ["e", 1, 0.5],
  ["s", 0.5, 1],
  ["w", 0, 0.5],
];
/** A box is never made smaller than this, pixels of the image. */
export const SMALLEST = 2;

/** A box of the wire; an absent number is 0. */
export function rectOf(box: Box | undefined): Rect {
  return { x1: box?.x1 ?? 0, y1: box?.y1 ?? 0, x2: box?.x2 ?? 0, y2: box?.y2 ?? 0 };
}

/** The box that lies between two points, inside an image. */
export function between(
  a: { x: number; y: number },
  b: { x: number; y: number },
  width: number,
  height: number,
): Rect {
  const clamp = (value: number, most: number) => Math.min(Math.max(value, 0), most);
  return {
    x1: clamp(Math.min(a.x, b.x), width),
    y1: clamp(Math.min(a.y, b.y), height),
    x2: clamp(Math.max(a.x, b.x), width),
    y2: clamp(Math.max(a.y, b.y), height),
  };
}

/** A box with `share` of its larger side added all around, inside the image. */
export function widened(box: Rect, share: number, width: number, height: number): Rect {
  const by = Math.max(box.x2 - box.x1, box.y2 - box.y1) * share;
  return between(
    { x: box.x1 - by, y: box.y1 - by },
    { x: box.x2 + by, y: box.y2 + by },
    width,
    height,
  );
}

/** `inner` as large as it can be in the middle of a canvas. `most`: the largest scale. */
export function fitted(
  inner: Rect,
  canvasWidth: number,
  canvasHeight: number,
  most = Infinity,
): Placement {
  const width = Math.max(inner.x2 - inner.x1, 1);
  const height = Math.max(inner.y2 - inner.y1, 1);
  const scale = Math.min(canvasWidth / width, canvasHeight / height, most);
  return {
    scale,
    x: (canvasWidth - width * scale) / 2 - inner.x1 * scale,
    y: (canvasHeight - height * scale) / 2 - inner.y1 * scale,
  };
}

/** The placement after zooming by `factor` with the canvas point (x, y) held still. */
export function zoomed(at: Placement, factor: number, x: number, y: number): Placement {
  const scale = Math.min(Math.max(at.scale * factor, 0.01), 64);
  const by = scale / at.scale;
  return { scale, x: x - (x - at.x) * by, y: y - (y - at.y) * by };
}

/** The image point under a canvas point. */
export function toImage(at: Placement, x: number, y: number): { x: number; y: number } {
  return { x: (x - at.x) / at.scale, y: (y - at.y) / at.scale };
}

/** What of `box` lies under an image point, within `reach` pixels of the image. */
export function handleAt(box: Rect, x: number, y: number, reach: number): Handle | null {
  for (const [name, fx, fy] of HANDLES) {
    const hx = box.x1 + (box.x2 - box.x1) * fx;
    const hy = box.y1 + (box.y2 - box.y1) * fy;
    if (Math.abs(hx - x) <= reach && Math.abs(hy - y) <= reach) return name;
  }
  return x >= box.x1 && x <= box.x2 && y >= box.y1 && y <= box.y2 ? "all" : null;
}

/** Where the handles of a box are, image points. */
export function handlePoints(box: Rect): [number, number][] {
  return HANDLES.map(([, fx, fy]) => [
    box.x1 + (box.x2 - box.x1) * fx,
    box.y1 + (box.y2 - box.y1) * fy,
  ]);
}

/** `box` with what `handle` holds moved by (dx, dy), inside the image and of a sound size. */
export function dragged(
  box: Rect,
  handle: Handle,
  dx: number,
  dy: number,
  width: number,
  height: number,
): Rect {
  const clamp = (value: number, least: number, most: number) =>
    Math.min(Math.max(value, least), most);
  if (handle === "all") {
    const x = clamp(dx, -box.x1, width - box.x2);
    const y = clamp(dy, -box.y1, height - box.y2);
    return { x1: box.x1 + x, y1: box.y1 + y, x2: box.x2 + x, y2: box.y2 + y };
  }
  const moved = { ...box };
  if (handle.includes("w")) moved.x1 = clamp(box.x1 + dx, 0, box.x2 - SMALLEST);
  if (handle.includes("e")) moved.x2 = clamp(box.x2 + dx, box.x1 + SMALLEST, width);
  if (handle.includes("n")) moved.y1 = clamp(box.y1 + dy, 0, box.y2 - SMALLEST);
  if (handle.includes("s")) moved.y2 = clamp(box.y2 + dy, box.y1 + SMALLEST, height);
  return moved;
}

export function sameRect(a: Rect, b: Rect): boolean {
  return a.x1 === b.x1 && a.y1 === b.y1 && a.x2 === b.x2 && a.y2 === b.y2;
}

/** IoU of two boxes, [0, 1]. */
export function overlap(a: Rect, b: Rect): number {
  const width = Math.max(Math.min(a.x2, b.x2) - Math.max(a.x1, b.x1), 0);
  const height = Math.max(Math.min(a.y2, b.y2) - Math.max(a.y1, b.y1), 0);
  const area = ({ x1, y1, x2, y2 }: Rect) => (x2 - x1) * (y2 - y1);
  const both = area(a) + area(b) - width * height;
  return both > 0 ? (width * height) / both : 0;
}
