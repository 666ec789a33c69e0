// Thumbnails, loaded a few at a time; what was scrolled past is given up.
//
// Each is decoded once, painted on a canvas of the grid and closed: an image element would be
// scaled again at each frame of a scroll, and the browser would keep its pixels.

import { imageBlobAt, imageUrl } from "../api/connect";

/** Requests at a time: as many as a browser makes to one server over HTTP/1.1. */
const TOGETHER = 6;

interface Wanted {
  sha256: string;
  width: number;
  controller: AbortController;
  paint: (bitmap: ImageBitmap | null) => void;
}

const waiting: Wanted[] = [];
let running = 0;

/**
 * Load a thumbnail, at most `width` pixels wide. `paint` must be done with the bitmap when it
 * returns; null: there is none. The result gives the thumbnail up.
 */
export function loadThumbnail(
  sha256: string,
  width: number,
  paint: (bitmap: ImageBitmap | null) => void,
): () => void {
  const wanted = { sha256, width, controller: new AbortController(), paint };
  waiting.push(wanted);
  next();
  return () => {
    wanted.controller.abort();
    const at = waiting.indexOf(wanted);
    if (at >= 0) waiting.splice(at, 1);
  };
}

function next(): void {
  while (running < TOGETHER) {
    const wanted = waiting.shift();
    if (!wanted) return;
    running += 1;
    void load(wanted).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function load({ sha256, width, controller, paint }: Wanted): Promise<void> {
  const { signal } = controller;
  let bitmap: ImageBitmap | null = null;
  try {
    bitmap = await createImageBitmap(await imageBlobAt(imageUrl(sha256, width), signal));
  } catch {
    // An image that is gone or cannot be decoded has an empty tile.
  }
  if (!signal.aborted) paint(bitmap);
  bitmap?.close();
}
