// A mask that is painted by hand, at the pixels of its image.

import type { Mask } from "../api/messages";
import { ALPHA, maskOf, paintedMask } from "./mask";

/** Diameters that the keys go through, pixels of the image. */
const LEAST = 2;
const MOST = 400;
const STEP = 1.3;

export class MaskBrush {
  /** What is painted, see-through. */
  readonly overlay: OffscreenCanvas;
  private context: OffscreenCanvasRenderingContext2D;

  /** Begin with a mask, or with nothing. `size`: diameter, pixels of the image. */
  constructor(
    width: number,
    height: number,
    private colour: string,
    begin: Mask | null,
    public size: number,
  ) {
    const known = begin?.width === width && begin.height === height;
    this.overlay = known ? paintedMask(begin, colour) : new OffscreenCanvas(width, height);
    this.context = this.overlay.getContext("2d", { willReadFrequently: true })!;
  }

  /** Paint, or erase, from one pixel of the image to another. */
  stroke(fromX: number, fromY: number, toX: number, toY: number, erase: boolean): void {
    const { context } = this;
    context.lineCap = "round";
    context.lineWidth = this.size;
    context.strokeStyle = this.colour;
    const line = () => {
      context.beginPath();
      context.moveTo(fromX, fromY);
      // A line of no length is not drawn at all.
      context.lineTo(toX + 0.01, toY);
      context.stroke();
    };
    // Erased first, so that what is painted twice does not get less see-through.
    context.globalCompositeOperation = "destination-out";
    context.globalAlpha = 1;
    line();
    if (!erase) {
      context.globalCompositeOperation = "source-over";
      context.globalAlpha = ALPHA;
      line();
    }
  }

  /** A wider brush, or a finer one. */
  resize(wider: boolean): void {
    const size = this.size * (wider ? STEP : 1 / STEP);
    this.size = Math.min(Math.max(size, LEAST), MOST);
  }

  get mask(): Mask {
    return maskOf(this.overlay);
  }
}
