// An image with boxes on a plain canvas: zoom, pan, hover, choose, draw, move and resize.
//
// Boxes are drawn one by one, at whole pixels of the canvas, and only those in sight: a browser
// without a GPU draws a straight rectangle at a pixel's edge seven times as fast as one of a path.
// Nothing is drawn unless something changed. While it is panned, what was drawn once, with some room
// around it, is copied to where it is now.

import type { MaskBrush } from "./brush";
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
  /** A stroke of the brush has ended. */
  onStroke?: () => void;
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

/** What a brush does. */
type BrushUse = "paint" | "erase";

interface Grip {
  handle: Handle | "pan" | "new" | BrushUse;
  startX: number;
  startY: number;
  at: Placement;
  rect: Rect | null;
  moved: boolean;
}

/** Something to draw on, and how the image lies on it. */
interface Surface {
  context: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D;
  width: number;
  height: number;
  at: Placement;
}

/** What is drawn beyond each edge before a pan, as a share of the canvas. */
const PAN_ROOM = 0.25;

/** All that is shown, drawn for a pan. */
interface PanCopy {
  pixels: OffscreenCanvas;
  /** Where its left upper corner was on the canvas when the image lay at `at`. */
  left: number;
  top: number;
  at: Placement;
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
  private brush: MaskBrush | null = null;
  /** Where the pointer was last, pixels of the canvas. */
  private pointer: { x: number; y: number } | null = null;
  private at: Placement = { scale: 1, x: 0, y: 0 };
  private fits = true;
  /** What is looked at closely, until it is panned or zoomed. */
  private looked: Rect | null = null;
  private grip: Grip | null = null;
  private copy: PanCopy | null = null;
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
    this.looked = null;
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

  /** Paint with a brush; null ends it. Its mask is shown in the place of another. */
  paintWith(brush: MaskBrush | null): void {
    this.brush = brush;
    this.redraw();
  }

  /** Show all of the image. */
  fit = (): void => {
    this.fits = true;
    this.place();
  };

  /** Look at `rect`, with room around it. */
  lookAt(rect: Rect): void {
    this.fits = false;
    this.looked = rect;
    this.place();
  }

  /** Zoom about the middle. */
  zoom(factor: number): void {
    this.leaveView();
    this.at = zoomed(this.at, factor, this.canvas.width / 2, this.canvas.height / 2);
    this.redraw();
  }

  /** Move what is shown by pixels of the page. */
  pan(dx: number, dy: number): void {
    this.leaveView();
    this.at = { ...this.at, x: this.at.x + dx * this.ratio, y: this.at.y + dy * this.ratio };
    this.redraw();
  }

  /** The place is a person's own now, whatever size the canvas gets. */
  private leaveView(): void {
    this.fits = false;
    this.looked = null;
  }

  /** Draw at the next frame. */
  redraw(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.paint());
  }

  /** Draw at the frame after the next one: what was asked about is seen first. */
  redrawLater(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      this.frame = requestAnimationFrame(() => this.paint());
    });
  }

  /** Draw now. */
  paint(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.grip?.handle === "pan" && this.grip.moved && this.image) return this.paintPan();
    this.copy = null;
    const { context, canvas, at } = this;
    this.paintAll({ context, width: canvas.width, height: canvas.height, at });
  }

  private paintAll(to: Surface): void {
    const { context, at } = to;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, to.width, to.height);
    if (!this.image) return;
    context.setTransform(at.scale, 0, 0, at.scale, at.x, at.y);
    context.imageSmoothingEnabled = at.scale < 4 * this.ratio;
    context.imageSmoothingQuality = at.scale < 1 && !this.grip ? "medium" : "low";
    context.drawImage(this.image, 0, 0, this.width, this.height);
    const overlay = this.brush?.overlay ?? this.overlay;
    if (overlay) context.drawImage(overlay, 0, 0, this.width, this.height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.paintBoxes(to);
    this.paintTags(to);
    this.paintEdited(to);
    this.paintPoints(to);
    this.paintBrush(to);
  }

  private paintPan(): void {
    const { context } = this;
    if (!this.copy || !this.covered(this.copy)) this.copy = this.drawnWide();
    const { x, y } = this.moved(this.copy);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "copy";
    context.drawImage(this.copy.pixels, x, y);
    context.globalCompositeOperation = "source-over";
  }

  /** Where a copy lies on the canvas now. */
  private moved({ at, left, top }: PanCopy): { x: number; y: number } {
    return { x: Math.round(left + this.at.x - at.x), y: Math.round(top + this.at.y - at.y) };
  }

  /** Whether a copy covers all of the canvas. */
  private covered(copy: PanCopy): boolean {
    const { x, y } = this.moved(copy);
    const { width, height } = copy.pixels;
    return x <= 0 && y <= 0 && x + width >= this.canvas.width && y + height >= this.canvas.height;
  }

  /** All that is shown now, and what lies around it. */
  private drawnWide(): PanCopy {
    const { canvas, at } = this;
    const left = -Math.round(canvas.width * PAN_ROOM);
    const top = -Math.round(canvas.height * PAN_ROOM);
    const [width, height] = [canvas.width - 2 * left, canvas.height - 2 * top];
    const pixels = new OffscreenCanvas(width, height);
    const context = pixels.getContext("2d")!;
    this.paintAll({ context, width, height, at: { ...at, x: at.x - left, y: at.y - top } });
    return { pixels, left, top, at: { ...at } };
  }

  private paintBoxes(to: Surface): void {
    const { context } = to;
    const { ratio } = this;
    const dim = this.edited !== null || this.chosen >= 0;
    context.globalAlpha = dim ? 0.6 : 1;
    for (const { colour, style, rects } of this.groups) {
      const seen = rects.map((one) => onCanvas(one, to.at)).filter((one) => inSight(one, to));
      context.setLineDash(DASHES[style].map((one) => one * ratio));
      this.strokeAll(to, seen, "rgb(0 0 0 / 55%)", 4);
      this.strokeAll(to, seen, colour, 2);
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
    const box = this.edited ? undefined : this.boxes[this.chosen];
    if (!box) return;
    this.strokeAll(to, [onCanvas(box.rect, to.at)], "#ffffff", 6);
    this.strokeAll(to, [onCanvas(box.rect, to.at)], box.colour, 4);
  }

  private strokeAll({ context }: Surface, rects: Rect[], colour: string, width: number): void {
    context.strokeStyle = colour;
    context.lineWidth = width * this.ratio;
    for (const { x1, y1, x2, y2 } of rects) context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }

  private paintTags(to: Surface): void {
    if (this.edited) return;
    // Beside a chosen box the names of the others would only be in the way.
    const all = this.chosen < 0 && this.boxes.length <= MOST_TAGS;
    if (all) for (const index of this.boxes.keys()) this.paintTag(to, index, 0.85);
    if (this.chosen >= 0) this.paintTag(to, this.chosen, 1);
    if (this.hovered >= 0) this.paintTag(to, this.hovered, 1);
  }

  private paintTag(to: Surface, index: number, alpha: number): void {
    const box = this.boxes[index];
    if (!box?.tag) return;
    const { context, at } = to;
    const { ratio } = this;
    const size = 12 * ratio;
    const height = size * 1.5;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const width = context.measureText(box.tag).width + 10 * ratio;
    const left = box.rect.x1 * at.scale + at.x;
    // A tag beyond the right edge moves left, as long as it stays at its box.
    const x =
      left < to.width ? Math.max(Math.min(left, to.width - width), 0) : left;
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

  private paintEdited(to: Surface): void {
    if (!this.edited) return;
    const { context, at } = to;
    const { ratio } = this;
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

  private paintPoints(to: Surface): void {
    const { context, at } = to;
    const { ratio } = this;
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

  private paintBrush({ context, at }: Surface): void {
    if (!this.brush || !this.pointer) return;
    const { x, y } = this.pointer;
    context.beginPath();
    context.arc(x, y, (this.brush.size / 2) * at.scale, 0, 2 * Math.PI);
    context.lineWidth = 2 * this.ratio;
    context.strokeStyle = "#000000";
    context.stroke();
    context.lineWidth = this.ratio;
    context.strokeStyle = "#ffffff";
    context.stroke();
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
      this.looked = null;
    } else if (this.looked) {
      const wide = widened(this.looked, 0.75, this.width, this.height);
      this.at = fitted(wide, this.canvas.width, this.canvas.height, 16 * this.ratio);
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
    if (this.brush && event.button !== 1 && !event.shiftKey) {
      handle = event.button === 2 || event.altKey ? "erase" : "paint";
      this.pointer = { x, y };
      this.brush.stroke(on.x, on.y, on.x, on.y, handle === "erase");
      this.redraw();
    }
    const rect = this.edited && { ...this.edited };
    this.grip = { handle, startX: x, startY: y, at: { ...this.at }, rect, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  };

  private move = (event: PointerEvent): void => {
    const { x, y } = this.point(event);
    const { grip } = this;
    if (this.brush) this.stroke(x, y);
    if (this.brush && grip?.handle !== "pan") return;
    if (!grip) return this.hover(x, y);
    const [dx, dy] = [x - grip.startX, y - grip.startY];
    if (!grip.moved && Math.hypot(dx, dy) < CLICK_SLACK * this.ratio) return;
    grip.moved = true;
    const by = this.at.scale;
    if (grip.handle === "pan") {
      this.leaveView();
      this.at = { ...grip.at, x: grip.at.x + dx, y: grip.at.y + dy };
    } else if (grip.handle === "new") {
      const from = toImage(this.at, grip.startX, grip.startY);
      this.setEdited(between(from, toImage(this.at, x, y), this.width, this.height));
    } else if (grip.rect && grip.handle !== "paint" && grip.handle !== "erase") {
      const { width, height } = this;
      this.setEdited(dragged(grip.rect, grip.handle, dx / by, dy / by, width, height));
    }
    this.redraw();
  };

  /** The pointer moved while there is a brush. */
  private stroke(x: number, y: number): void {
    const { grip, pointer } = this;
    this.pointer = { x, y };
    this.redraw();
    if (!pointer || (grip?.handle !== "paint" && grip?.handle !== "erase")) return;
    const [from, to] = [toImage(this.at, pointer.x, pointer.y), toImage(this.at, x, y)];
    this.brush?.stroke(from.x, from.y, to.x, to.y, grip.handle === "erase");
  }

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
    if (grip.handle === "paint" || grip.handle === "erase") return this.events.onStroke?.();
    if (!grip.moved && event.type === "pointerup") {
      const on = toImage(this.at, grip.startX, grip.startY);
      this.events.onPick?.(this.boxAt(on.x, on.y), on.x, on.y, event);
    }
    this.redraw();
  };

  private leave = (): void => {
    this.pointer = null;
    if (this.brush) this.redraw();
    if (this.hovered < 0) return;
    this.hovered = -1;
    this.redraw();
  };

  private wheel = (event: WheelEvent): void => {
    event.preventDefault();
    const { x, y } = this.point(event);
    this.leaveView();
    this.at = zoomed(this.at, Math.exp(-event.deltaY * WHEEL), x, y);
    this.redraw();
  };
}

/** A box of the image at whole pixels of the canvas. */
function onCanvas({ x1, y1, x2, y2 }: Rect, { scale, x, y }: Placement): Rect {
  return {
    x1: Math.round(x1 * scale + x),
    y1: Math.round(y1 * scale + y),
    x2: Math.round(x2 * scale + x),
    y2: Math.round(y2 * scale + y),
  };
}

function inSight({ x1, y1, x2, y2 }: Rect, { width, height }: Surface): boolean {
  return x2 >= 0 && y2 >= 0 && x1 <= width && y1 <= height;
}
