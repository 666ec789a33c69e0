// The tiles of a grid on one canvas that stays in sight: each is painted once, and copied at each
// frame of a scroll.
//
// Without a GPU, elements with images cost a scroll three times as much: as image elements their
// pixels were scaled again for each row that came, and as canvases each was a layer of its own.
// The buttons over it have no pixels.

import type { RunImage } from "../api/messages";
import { fitted } from "../canvas/geometry";
import { texts } from "../texts";
import { loadThumbnail } from "./thumbnails";

/** Heights, pixels of the page. */
export const ROW = 212;
export const TILE_HEIGHT = 202;
const CAPTION = 30;
const GAP = 10;
const LINE = 2;
const DASHES = [7, 5];
const COLOURS = ["panel", "line", "ink", "soft", "stage", "sunk"] as const;

/** How the tiles lie. */
export interface GridLayout {
  columns: number;
  /** Of a tile, pixels of the page. */
  width: number;
  /** In the order that the boxes count by; null: not known yet, so nothing is painted. */
  palette: string[] | null;
}

interface Painted {
  image: RunImage;
  pixels: OffscreenCanvas;
  giveUp: () => void;
}

/** One canvas as large as what is in sight. Call `close` when it goes. */
export class GridCanvas {
  private context: CanvasRenderingContext2D;
  private tiles = new Map<number, Painted>();
  /** Canvases of tiles that were scrolled away. */
  private spare: OffscreenCanvas[] = [];
  private layout: GridLayout = { columns: 1, width: 1, palette: null };
  private shown: [number, number] = [0, 0];
  private scrolled = 0;
  private ratio = 1;
  private colours = themeColours();
  private dark = matchMedia("(prefers-color-scheme: dark)");

  constructor(private canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d")!;
    this.dark.addEventListener("change", this.recolour);
  }

  close(): void {
    this.dark.removeEventListener("change", this.recolour);
    this.forget();
    this.spare = [];
  }

  /** The room there is, pixels of the page, and how tiles lie in it. */
  resize(width: number, height: number, layout: GridLayout): void {
    this.ratio = window.devicePixelRatio || 1;
    this.layout = layout;
    this.canvas.width = Math.max(Math.round(width * this.ratio), 1);
    this.canvas.height = Math.max(Math.round(height * this.ratio), 1);
    this.forget();
    this.spare = [];
  }

  /** The images from one place up to another are in sight; `get` gives those that have come. */
  show(from: number, to: number, get: (index: number) => RunImage | undefined): void {
    this.shown = [from, to];
    if (!this.layout.palette) return;
    for (const [index, tile] of this.tiles) {
      const still = index >= from && index < to && get(index) === tile.image;
      if (!still) this.drop(index, tile);
    }
    for (let index = from; index < to; index++) {
      const image = get(index);
      if (image && !this.tiles.has(index)) this.tiles.set(index, this.made(index, image));
    }
    this.paint();
  }

  /** What is shown begins at so many pixels of the page. */
  scroll(top: number): void {
    this.scrolled = top;
    this.paint();
  }

  private paint(): void {
    const { context, canvas, ratio } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    const [from, to] = this.shown;
    for (let index = from; index < to; index++) {
      const { x, y, width, height } = this.place(index);
      if (y >= canvas.height || y + height <= 0) continue;
      const tile = this.tiles.get(index);
      if (tile) context.drawImage(tile.pixels, x, y);
      else {
        context.fillStyle = this.colours.sunk;
        context.fillRect(x, y, width, height - GAP * ratio);
      }
    }
  }

  /** Where a tile is, whole pixels of the canvas. */
  private place(index: number) {
    const { columns, width } = this.layout;
    const [row, column] = [Math.floor(index / columns), index % columns];
    return {
      x: Math.round(column * (width + GAP) * this.ratio),
      y: Math.round((row * ROW - this.scrolled) * this.ratio),
      width: Math.round(width * this.ratio),
      height: Math.round(ROW * this.ratio),
    };
  }

  private made(index: number, image: RunImage): Painted {
    const pixels = this.spare.pop() ?? this.blank();
    this.paintFrame(pixels, image);
    const giveUp = loadThumbnail(image.sha256 ?? "", pixels.width, (bitmap) => {
      if (bitmap) this.paintImage(pixels, image, bitmap);
      this.canvas.dataset["shown"] = String(Number(this.canvas.dataset["shown"] ?? 0) + 1);
      const { y, height } = this.place(index);
      if (y < this.canvas.height && y + height > 0) this.paint();
    });
    return { image, pixels, giveUp };
  }

  private blank(): OffscreenCanvas {
    const { width } = this.place(0);
    return new OffscreenCanvas(width, Math.round(TILE_HEIGHT * this.ratio));
  }

  private paintFrame(pixels: OffscreenCanvas, image: RunImage): void {
    const { ratio, colours } = this;
    const { width, height } = pixels;
    const context = pixels.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    context.beginPath();
    context.roundRect(ratio / 2, ratio / 2, width - ratio, height - ratio, 6 * ratio);
    context.fillStyle = colours.panel;
    context.fill();
    context.lineWidth = ratio;
    context.strokeStyle = colours.line;
    context.stroke();
    context.fillStyle = colours.stage;
    context.fillRect(ratio, ratio, width - 2 * ratio, height - (CAPTION + 1) * ratio);
    context.font = `${12.5 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const middle = height - (CAPTION / 2) * ratio;
    const counts = texts.browse.counts(image.accepted ?? 0, image.unsure ?? 0);
    const edge = 9 * ratio;
    const taken = context.measureText(counts).width;
    context.fillStyle = colours.soft;
    context.fillText(counts, width - edge - taken, middle);
    context.fillStyle = colours.ink;
    const room = width - taken - 3 * edge;
    context.fillText(shortened(image.name ?? "", room, context), edge, middle);
  }

  private paintImage(pixels: OffscreenCanvas, image: RunImage, bitmap: ImageBitmap): void {
    const { ratio } = this;
    const all = { x1: 0, y1: 0, x2: image.width ?? 1, y2: image.height ?? 1 };
    const [across, down] = [pixels.width - 2 * ratio, pixels.height - (CAPTION + 1) * ratio];
    const at = fitted(all, across, down);
    const context = pixels.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, ratio, ratio);
    context.drawImage(bitmap, at.x, at.y, all.x2 * at.scale, all.y2 * at.scale);
    const { classIndex = [], outcome = [], xyxy = [] } = image.boxes ?? {};
    context.lineWidth = LINE * ratio;
    classIndex.forEach((place, index) => {
      const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = xyxy
        .slice(index * 4, index * 4 + 4)
        .map((one, side) => Math.round(one * at.scale + (side % 2 ? at.y : at.x)));
      context.strokeStyle = this.layout.palette?.[place] ?? "#888888";
      const dashed = outcome[index] === "OUTCOME_UNSURE";
      context.setLineDash(dashed ? DASHES.map((one) => one * ratio) : []);
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    });
    context.setLineDash([]);
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  private drop(index: number, tile: Painted): void {
    tile.giveUp();
    this.spare.push(tile.pixels);
    this.tiles.delete(index);
  }

  private forget(): void {
    for (const [index, tile] of this.tiles) this.drop(index, tile);
  }

  private recolour = (): void => {
    this.colours = themeColours();
    const known = new Map([...this.tiles].map(([index, tile]) => [index, tile.image]));
    this.forget();
    this.show(...this.shown, (index) => known.get(index));
  };
}

/** The colours of the style sheet that tiles are made of. */
function themeColours(): Record<(typeof COLOURS)[number], string> {
  const style = getComputedStyle(document.documentElement);
  const found = COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]);
  return Object.fromEntries(found) as Record<(typeof COLOURS)[number], string>;
}

/** A text that is at most `room` pixels wide. */
function shortened(text: string, room: number, context: OffscreenCanvasRenderingContext2D): string {
  if (context.measureText(text).width <= room) return text;
  // Letters are of about the same width; one more or less is settled by measuring.
  let length = Math.floor((text.length * room) / context.measureText(text).width);
  const cut = () => `${text.slice(0, Math.max(length, 0))}…`;
  while (length > 0 && context.measureText(cut()).width > room) length -= 1;
  return cut();
}
