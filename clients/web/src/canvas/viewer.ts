// An image with boxes on a plain canvas: zoom, pan, hover, choose, draw, move and resize.
//
// Boxes are drawn one by one, at whole pixels of the canvas, and only those in sight: a browser
// without a GPU draws a straight rectangle at a pixel's edge seven times as fast as one of a path.
// Nothing is drawn unless something changed.

import {
  between,
  dragged,
  fitted,
  handleAt,
  handlePoints,
  type Handle,
  type Placement,
  type Rect,
  SMALLEST,
  toImage,
  widened,
  zoomed,
} from "./geometry";

export type Style = "solid" | "dashed" | "dotted";

/** A box to be shown. */
export interface ShownBox {
  rect: Rect;
  colour: string;
  style: Style;
  tag: string;
}

/** A click on the image, pixels of it. */
export interface Point {
  x?: number;
  y?: number;
  inside?: boolean;
}

export interface ViewerEvents {
  /** A box was clicked; -1: none is under the pointer. `x`, `y`: pixels of the image. */
  onPick?: (index: number, x: number, y: number, event: PointerEvent) => void;
  /** The outline that is edited has changed. */
  onEdit?: (rect: Rect) => void;
}

const DASHES: Record<Style, [number, number] | []> = {
  solid: [],
  dashed: [9, 6],
  dotted: [3, 5],
};
const HANDLE = 9;
const CLICK_SLACK = 4;
/** With more boxes than this, only the one under the pointer and the chosen one have tags. */
const MOST_TAGS = 40;
const WHEEL = 0.0016;
const EDITED = "#ffffff";

interface Group {
  colour: string;
  style: Style;
  rects: Rect[];
}

interface Grip {
  handle: Handle | "pan" | "new";
  startX: number;
  startY: number;
  at: Placement;
  rect: Rect | null;
  moved: boolean;
}

/** One canvas. Call `close` when it goes. */
export class Viewer {
  private context: CanvasRenderingContext2D;
  private image: CanvasImageSource | null = null;
  private width = 1;
  private height = 1;
  private boxes: ShownBox[] = [];
  private groups: Group[] = [];
  private overlay: CanvasImageSource | null = null;
  private points: readonly Point[] = [];
  private chosen = -1;
  private hovered = -1;
  private edited: Rect | null = null;
  private drawing = false;
  private at: Placement = { scale: 1, x: 0, y: 0 };
  private fits = true;
  private grip: Grip | null = null;
  private frame = 0;
  private ratio = 1;
  private observer: ResizeObserver;

  constructor(
    private canvas: HTMLCanvasElement,
    public events: ViewerEvents = {},
  ) {
    this.context = canvas.getContext("2d", { alpha: true })!;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(canvas);
    canvas.addEventListener("pointerdown", this.down);
    canvas.addEventListener("pointermove", this.move);
    canvas.addEventListener("pointerup", this.up);
    canvas.addEventListener("pointercancel", this.up);
    canvas.addEventListener("pointerleave", this.leave);
    canvas.addEventListener("wheel", this.wheel, { passive: false });
    canvas.addEventListener("dblclick", () => !this.drawing && this.fit());
    // The right button is a click outside of an object.
    canvas.addEventListener("contextmenu", (event) => this.drawing && event.preventDefault());
    this.resize();
  }

  close(): void {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    this.image = null;
  }

  /** Show an image of `width` × `height` pixels; its bitmap may be smaller. */
  show(image: CanvasImageSource | null, width: number, height: number, keepView = false): void {
    this.image = image;
    this.width = Math.max(width, 1);
    this.height = Math.max(height, 1);
    this.overlay = null;
    this.points = [];
    this.hovered = -1;
    if (!keepView) this.fits = true;
    this.place();
  }

  /** The boxes on the image, and which of them is chosen (-1: none). */
  setBoxes(boxes: ShownBox[], chosen = -1): void {
    this.boxes = boxes;
    this.chosen = chosen;
    this.hovered = -1;
    const groups = new Map<string, Group>();
    for (const { rect, colour, style } of boxes) {
      const key = `${colour} ${style}`;
      let group = groups.get(key);
      if (!group) groups.set(key, (group = { colour, style, rects: [] }));
      group.rects.push(rect);
    }
    this.groups = [...groups.values()];
    this.redraw();
  }

  setChosen(index: number): void {
    this.chosen = index;
    this.redraw();
  }

  /** A mask over the image, and marks of clicks inside and outside an object, image pixels. */
  setMask(overlay: CanvasImageSource | null, points: readonly Point[]): void {
    this.overlay = overlay;
    this.points = points;
    this.redraw();
  }

  /** Edit an outline: null ends it. With `drawing`, a drag on the image begins a new outline. */
  edit(rect: Rect | null, drawing = false): void {
    this.edited = rect;
    this.drawing = drawing;
    this.canvas.classList.toggle("drawing", drawing);
    this.redraw();
  }

  /** Show all of the image. */
  fit = (): void => {
    this.fits = true;
    this.place();
  };

  /** Look at `rect`, with room around it. */
  lookAt(rect: Rect): void {
    const wide = widened(rect, 0.75, this.width, this.height);
    this.fits = false;
    this.at = fitted(wide, this.canvas.width, this.canvas.height, 16 * this.ratio);
    this.redraw();
  }

  /** Zoom about the middle. */
  zoom(factor: number): void {
    this.fits = false;
    this.at = zoomed(this.at, factor, this.canvas.width / 2, this.canvas.height / 2);
    this.redraw();
  }

  /** Move what is shown by pixels of the page. */
  pan(dx: number, dy: number): void {
    this.fits = false;
    this.at = { ...this.at, x: this.at.x + dx * this.ratio, y: this.at.y + dy * this.ratio };
    this.redraw();
  }

  /** Draw at the next frame. */
  redraw(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.paint());
  }

  /** Draw now. */
  paint(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { context, canvas, at } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.setTransform(at.scale, 0, 0, at.scale, at.x, at.y);
    context.imageSmoothingEnabled = at.scale < 4 * this.ratio;
    context.imageSmoothingQuality = at.scale < 1 && !this.grip ? "medium" : "low";
    context.drawImage(this.image, 0, 0, this.width, this.height);
    if (this.overlay) context.drawImage(this.overlay, 0, 0, this.width, this.height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.paintBoxes();
    this.paintTags();
    this.paintEdited();
    this.paintPoints();
  }

  private paintBoxes(): void {
    const { context, ratio } = this;
    const dim = this.edited !== null || this.chosen >= 0;
    context.globalAlpha = dim ? 0.6 : 1;
    for (const { colour, style, rects } of this.groups) {
      const seen = rects.map((one) => this.onCanvas(one)).filter((one) => this.inSight(one));
      context.setLineDash(DASHES[style].map((one) => one * ratio));
      this.strokeAll(seen, "rgb(0 0 0 / 55%)", 4);
      this.strokeAll(seen, colour, 2);
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
    const box = this.edited ? undefined : this.boxes[this.chosen];
    if (!box) return;
    this.strokeAll([this.onCanvas(box.rect)], "#ffffff", 6);
    this.strokeAll([this.onCanvas(box.rect)], box.colour, 4);
  }

  private strokeAll(rects: Rect[], colour: string, width: number): void {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = width * this.ratio;
    for (const { x1, y1, x2, y2 } of rects) context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }

  /** A box of the image at whole pixels of the canvas. */
  private onCanvas({ x1, y1, x2, y2 }: Rect): Rect {
    const { scale, x, y } = this.at;
    return {
      x1: Math.round(x1 * scale + x),
      y1: Math.round(y1 * scale + y),
      x2: Math.round(x2 * scale + x),
      y2: Math.round(y2 * scale + y),
    };
  }

  private inSight({ x1, y1, x2, y2 }: Rect): boolean {
    return x2 >= 0 && y2 >= 0 && x1 <= this.canvas.width && y1 <= this.canvas.height;
  }

  private paintTags(): void {
    if (this.edited) return;
    // Beside a chosen box the names of the others would only be in the way.
    const all = this.chosen < 0 && this.boxes.length <= MOST_TAGS;
    if (all) for (const index of this.boxes.keys()) this.paintTag(index, 0.85);
    if (this.chosen >= 0) this.paintTag(this.chosen, 1);
    if (this.hovered >= 0) this.paintTag(this.hovered, 1);
  }

  private paintTag(index: number, alpha: number): void {
    const box = this.boxes[index];
    if (!box?.tag) return;
    const { context, at, ratio } = this;
    const size = 12 * ratio;
    const height = size * 1.5;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const width = context.measureText(box.tag).width + 10 * ratio;
    const left = box.rect.x1 * at.scale + at.x;
    // A tag beyond the right edge moves left, as long as it stays at its box.
    const x =
      left < this.canvas.width ? Math.max(Math.min(left, this.canvas.width - width), 0) : left;
    const y = box.rect.y1 * at.scale + at.y;
    const top = y >= height ? y - height : y;
    context.globalAlpha = alpha;
    context.fillStyle = box.colour;
    context.fillRect(x - ratio, top, width, height);
    context.fillStyle = "#111418";
    context.textBaseline = "middle";
    context.fillText(box.tag, x + 4 * ratio, top + height / 2 + ratio);
    context.globalAlpha = 1;
  }

  private paintEdited(): void {
    if (!this.edited) return;
    const { context, at, ratio } = this;
    const { x1, y1, x2, y2 } = this.edited;
    const [x, y] = [x1 * at.scale + at.x, y1 * at.scale + at.y];
    const [w, h] = [(x2 - x1) * at.scale, (y2 - y1) * at.scale];
    context.strokeStyle = "#000000";
    context.lineWidth = 4 * ratio;
    context.strokeRect(x, y, w, h);
    context.strokeStyle = EDITED;
    context.lineWidth = 2 * ratio;
    context.strokeRect(x, y, w, h);
    const half = (HANDLE * ratio) / 2;
    for (const [px, py] of handlePoints(this.edited)) {
      const [hx, hy] = [px * at.scale + at.x, py * at.scale + at.y];
      context.fillStyle = EDITED;
      context.fillRect(hx - half, hy - half, 2 * half, 2 * half);
      context.lineWidth = ratio;
      context.strokeStyle = "#000000";
      context.strokeRect(hx - half, hy - half, 2 * half, 2 * half);
    }
  }

  private paintPoints(): void {
    const { context, at, ratio } = this;
    for (const { x = 0, y = 0, inside } of this.points) {
      context.beginPath();
      context.arc(x * at.scale + at.x, y * at.scale + at.y, 5 * ratio, 0, 2 * Math.PI);
      context.fillStyle = inside ? "#39d98a" : "#ff5c6c";
      context.fill();
      context.lineWidth = 2 * ratio;
      context.strokeStyle = "#ffffff";
      context.stroke();
    }
  }

  private resize(): void {
    this.ratio = window.devicePixelRatio || 1;
    const width = Math.max(Math.round(this.canvas.clientWidth * this.ratio), 1);
    const height = Math.max(Math.round(this.canvas.clientHeight * this.ratio), 1);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.place();
    // Another size has emptied the canvas: it would be seen so for a frame.
    this.paint();
  }

  private place(): void {
    if (this.fits) {
      const all = { x1: 0, y1: 0, x2: this.width, y2: this.height };
      const { width, height } = this.canvas;
      this.at = fitted(all, width, height, 4 * this.ratio);
    }
    this.redraw();
  }

  private point(event: PointerEvent | WheelEvent): { x: number; y: number } {
    const around = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - around.left) * this.ratio,
      y: (event.clientY - around.top) * this.ratio,
    };
  }

  private reach(): number {
    return (HANDLE * this.ratio) / this.at.scale;
  }

  /** The smallest box under an image point. */
  private boxAt(x: number, y: number): number {
    let best = -1;
    let smallest = Infinity;
    const slack = (3 * this.ratio) / this.at.scale;
    this.boxes.forEach(({ rect }, index) => {
      const { x1, y1, x2, y2 } = rect;
      const area = (x2 - x1) * (y2 - y1);
      if (x < x1 - slack || x > x2 + slack || y < y1 - slack || y > y2 + slack) return;
      if (area < smallest) [best, smallest] = [index, area];
    });
    return best;
  }

  private down = (event: PointerEvent): void => {
    const { x, y } = this.point(event);
    const on = toImage(this.at, x, y);
    let handle: Grip["handle"] = "pan";
    if (event.button === 0 && !event.shiftKey) {
      const held = this.edited && handleAt(this.edited, on.x, on.y, this.reach());
      if (held) handle = held;
      else if (this.drawing) handle = "new";
    }
    const rect = this.edited && { ...this.edited };
    this.grip = { handle, startX: x, startY: y, at: { ...this.at }, rect, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  };

  private move = (event: PointerEvent): void => {
    const { x, y } = this.point(event);
    const { grip } = this;
    if (!grip) return this.hover(x, y);
    const [dx, dy] = [x - grip.startX, y - grip.startY];
    if (!grip.moved && Math.hypot(dx, dy) < CLICK_SLACK * this.ratio) return;
    grip.moved = true;
    const by = this.at.scale;
    if (grip.handle === "pan") {
      this.fits = false;
      this.at = { ...grip.at, x: grip.at.x + dx, y: grip.at.y + dy };
    } else if (grip.handle === "new") {
      const from = toImage(this.at, grip.startX, grip.startY);
      this.setEdited(between(from, toImage(this.at, x, y), this.width, this.height));
    } else if (grip.rect) {
      const { width, height } = this;
      this.setEdited(dragged(grip.rect, grip.handle, dx / by, dy / by, width, height));
    }
    this.redraw();
  };

  private setEdited(rect: Rect): void {
    if (rect.x2 - rect.x1 < SMALLEST || rect.y2 - rect.y1 < SMALLEST) return;
    this.edited = rect;
    this.events.onEdit?.(rect);
  }

  private hover(x: number, y: number): void {
    const on = toImage(this.at, x, y);
    const index = this.edited ? -1 : this.boxAt(on.x, on.y);
    if (index === this.hovered) return;
    this.hovered = index;
    this.redraw();
  }

  private up = (event: PointerEvent): void => {
    const { grip } = this;
    this.grip = null;
    if (!grip) return;
    if (!grip.moved && event.type === "pointerup") {
      const on = toImage(this.at, grip.startX, grip.startY);
      this.events.onPick?.(this.boxAt(on.x, on.y), on.x, on.y, event);
    }
    this.redraw();
  };

  private leave = (): void => {
    if (this.hovered < 0) return;
    this.hovered = -1;
    this.redraw();
  };

  private wheel = (event: WheelEvent): void => {
    event.preventDefault();
    const { x, y } = this.point(event);
    this.fits = false;
    this.at = zoomed(this.at, Math.exp(-event.deltaY * WHEEL), x, y);
    this.redraw();
  };
}
