// Decoded images of the items that come next, so that a key shows the next crop at once.

import { CallError, imageBlob, messageOf } from "../api/connect";
import type { ReviewItem } from "../api/messages";
import { rectOf, widened, type Rect } from "../canvas/geometry";

/** An item's image, ready to be drawn. */
export interface Pixels {
  /** The whole image; smaller than it where it has very many pixels. */
  image: ImageBitmap;
  /** What is shown large: the box with a margin, in all its pixels. */
  crop: ImageBitmap;
  /** Where the crop is, pixels of the image. */
  window: Rect;
}

/** Around the box, as a share of its larger side. */
const MARGIN = 0.25;
/** Items ahead whose images are decoded. */
export const AHEAD = 8;
/** Pixels of a whole image that are kept of each item ahead. */
const MOST_PIXELS = 3_000_000;
const RETRY_MS = 700;
const TRIES = 3;

async function decoded(item: ReviewItem, signal: AbortSignal): Promise<Pixels> {
  const blob = await imageBlob(item.image ?? "", signal);
  const full = await createImageBitmap(blob);
  // The server may send an image with fewer pixels than it has.
  const by = full.width / Math.max(item.width ?? full.width, 1);
  const window = widened(rectOf(item.box), MARGIN, item.width ?? 1, item.height ?? 1);
  const [x, y] = [Math.floor(window.x1 * by), Math.floor(window.y1 * by)];
  const width = Math.max(Math.ceil((window.x2 - window.x1) * by), 1);
  const height = Math.max(Math.ceil((window.y2 - window.y1) * by), 1);
  const crop = await createImageBitmap(full, x, y, width, height);
  const share = Math.sqrt(MOST_PIXELS / (full.width * full.height));
  if (share >= 1) return { image: full, crop, window };
  const image = await createImageBitmap(full, {
    resizeWidth: Math.round(full.width * share),
    resizeHeight: Math.round(full.height * share),
    resizeQuality: "medium",
  });
  full.close();
  return { image, crop, window };
}

/** Holds the pixels of the items ahead and of those just answered. */
export class PixelCache {
  private held = new Map<string, Pixels>();
  private asked = new Map<string, AbortController>();
  private failed = new Map<string, string>();
  /** The pixels of an item have come, or will not come. */
  onReady: (id: string) => void = () => undefined;

  get(item: ReviewItem | undefined): Pixels | undefined {
    return this.held.get(item?.id ?? "");
  }

  /** Why an item has no pixels; empty where they may still come. */
  error(item: ReviewItem | undefined): string {
    return this.failed.get(item?.id ?? "") ?? "";
  }

  /** These items are wanted, in this order; others are forgotten. */
  want(items: readonly ReviewItem[], recent: readonly ReviewItem[]): void {
    const kept = new Set([...items, ...recent].map((one) => one.id ?? ""));
    for (const [id, pixels] of this.held) if (!kept.has(id)) this.drop(id, pixels);
    for (const [id, controller] of this.asked) if (!kept.has(id)) controller.abort();
    for (const item of items) void this.load(item);
  }

  close(): void {
    this.want([], []);
  }

  private drop(id: string, pixels: Pixels): void {
    pixels.image.close();
    pixels.crop.close();
    this.held.delete(id);
  }

  private async load(item: ReviewItem): Promise<void> {
    const id = item.id ?? "";
    if (this.held.has(id) || this.asked.has(id) || this.failed.has(id)) return;
    const controller = new AbortController();
    this.asked.set(id, controller);
    for (let tries = 1; !controller.signal.aborted; tries++) {
      try {
        this.held.set(id, await decoded(item, controller.signal));
        break;
      } catch (error) {
        // A server that is away comes back; an image that cannot be decoded never can.
        const away = error instanceof CallError && error.transient;
        if (!away && tries >= TRIES) {
          this.failed.set(id, messageOf(error));
          break;
        }
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
    this.asked.delete(id);
    const pixels = this.held.get(id);
    if (controller.signal.aborted && pixels) this.drop(id, pixels);
    this.onReady(id);
  }
}
