// A mask of the outline that is edited, painted with a brush.

import { useRef, useState } from "preact/hooks";
import type { Mask } from "../api/messages";
import { MaskBrush } from "../canvas/brush";
import type { Rect } from "../canvas/geometry";
import { boundsOf } from "../canvas/mask";

const COLOUR = "#39d98a";
/** A brush begins as wide as this share of the box's smaller side. */
const SHARE = 0.2;
const LEAST = 3;
/** Larger images cannot be painted on: a stroke would take seconds. */
const MOST_PIXELS = 64_000_000;

/** The brush of an outline. */
export interface Painting {
  /** Null: the pointer does something else. */
  brush: MaskBrush | null;
  /** What was painted; null before the first stroke. */
  mask: Mask | null;
  /** Begin with a mask, or with nothing, beside a box; end where there is a brush already. */
  toggle: (begin: Mask | null, box: Rect | null, width: number, height: number) => void;
  resize: (wider: boolean) => void;
  /** A stroke has ended. */
  stroked: () => void;
  clear: () => void;
}

/** `onBox` gets the box of the mask after each stroke. */
export function usePainting(onBox: (box: Rect) => void): Painting {
  const [brush, setBrush] = useState<MaskBrush | null>(null);
  const [mask, setMask] = useState<Mask | null>(null);
  const [, redraw] = useState(0);
  const latest = useRef({ brush, mask });
  latest.current = { brush, mask };
  const clear = () => {
    if (latest.current.brush) setBrush(null);
    if (latest.current.mask) setMask(null);
  };
  return {
    brush,
    mask,
    clear,
    toggle: (begin, box, width, height) => {
      if (latest.current.brush) return setBrush(null);
      if (width * height > MOST_PIXELS) return;
      const side = box ? Math.min(box.x2 - box.x1, box.y2 - box.y1) : Math.min(width, height);
      const size = Math.max(Math.round(side * SHARE), LEAST);
      setBrush(new MaskBrush(width, height, COLOUR, latest.current.mask ?? begin, size));
    },
    resize: (wider) => {
      latest.current.brush?.resize(wider);
      redraw((turn) => turn + 1);
    },
    stroked: () => {
      const made = latest.current.brush?.mask ?? null;
      const box = made && boundsOf(made);
      setMask(box ? made : null);
      if (box) onBox(box);
    },
  };
}
