// Masks as COCO's compressed run-length code: read, written, and made visible. No network here.

import type { Mask } from "../api/messages";
import type { Rect } from "./geometry";

const CHAR_0 = 48;
const MORE = 0x20;
const NEGATIVE = 0x10;
/** A mask with more pixels is not decoded: its size comes from the wire. */
const MOST_PIXELS = 64_000_000;
/** How much a shown mask hides. */
export const ALPHA = 0.45;
const OPAQUE = 255 * ALPHA;

/**
 * Lengths of the runs, column by column, background first. Each number is written five bits a
 * character, and from the fourth on as the difference to the one two before it.
 */
export function runsOf(counts: string): number[] {
  const runs: number[] = [];
  for (let at = 0; at < counts.length;) {
    let value = 0;
    let bits = 0;
    let char = MORE;
    while (char & MORE && at < counts.length) {
      char = counts.charCodeAt(at++) - CHAR_0;
      value |= (char & 0x1f) << bits;
      bits += 5;
      if (!(char & MORE) && char & NEGATIVE && bits < 32) value |= -1 << bits;
    }
    runs.push(runs.length > 2 ? value + (runs[runs.length - 2] ?? 0) : value);
  }
  return runs;
}

/** The code of runs: the inverse of `runsOf`. */
export function countsOf(runs: readonly number[]): string {
  let counts = "";
  runs.forEach((run, at) => {
    let value = at > 2 ? run - (runs[at - 2] ?? 0) : run;
    for (let more = true; more; ) {
      let char = value & 0x1f;
      value >>= 5;
      more = char & NEGATIVE ? value !== -1 : value !== 0;
      if (more) char |= MORE;
      counts += String.fromCharCode(char + CHAR_0);
    }
  });
  return counts;
}

/** The mask of a canvas of the size of an image: the pixels that are more than half opaque. */
export function maskOf(canvas: OffscreenCanvas): Mask {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d")!.getImageData(0, 0, width, height);
  const runs: number[] = [];
  let [inside, length] = [false, 0];
  for (let column = 0; column < width; column++) {
    for (let row = 0; row < height; row++) {
      const now = (data[(row * width + column) * 4 + 3] ?? 0) > OPAQUE / 2;
      if (now !== inside) {
        runs.push(length);
        [inside, length] = [now, 0];
      }
      length += 1;
    }
  }
  runs.push(length);
  return { width, height, counts: countsOf(runs) };
}

/** Each stretch of a mask within one column: [column, from row, to row). */
function* stretches(mask: Mask): Generator<[number, number, number]> {
  const [width, height] = [mask.width ?? 0, mask.height ?? 0];
  if (width * height > MOST_PIXELS) return;
  let place = 0;
  for (const [index, length] of runsOf(mask.counts ?? "").entries()) {
    const end = Math.min(place + Math.max(length, 0), width * height);
    while (index % 2 === 1 && place < end) {
      const column = Math.floor(place / height);
      const to = Math.min(end, (column + 1) * height);
      yield [column, place - column * height, to - column * height];
      place = to;
    }
    place = end;
  }
}

/** The box of a mask; null where it is empty. */
export function boundsOf(mask: Mask): Rect | null {
  const box = { x1: Infinity, y1: Infinity, x2: 0, y2: 0 };
  for (const [column, from, to] of stretches(mask)) {
    box.x1 = Math.min(box.x1, column);
    box.x2 = Math.max(box.x2, column + 1);
    box.y1 = Math.min(box.y1, from);
    box.y2 = Math.max(box.y2, to);
  }
  return box.x2 > 0 ? box : null;
}

/** A mask in one colour, see-through, of the size of its image. */
export function paintedMask(mask: Mask, colour: string): OffscreenCanvas {
  const canvas = new OffscreenCanvas(Math.max(mask.width ?? 1, 1), Math.max(mask.height ?? 1, 1));
  const context = canvas.getContext("2d")!;
  context.fillStyle = colour;
  context.globalAlpha = ALPHA;
  for (const [column, from, to] of stretches(mask)) context.fillRect(column, from, 1, to - from);
  return canvas;
}
