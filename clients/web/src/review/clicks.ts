// Clicks inside and outside of an object that make a mask, live.

import { useEffect, useRef, useState } from "preact/hooks";
import { call, CallError, messageOf } from "../api/connect";
import { getServerInfo, openImage, segment, type Click, type Mask } from "../api/messages";
import { boundsOf, paintedMask } from "../canvas/mask";
import type { Rect } from "../canvas/geometry";

/** What clicks have made so far. */
export interface MaskClicks {
  /** Whether the server has a segmenter. */
  available: boolean;
  clicks: Click[];
  mask: Mask | null;
  overlay: OffscreenCanvas | null;
  error: string;
  /** A click at a pixel of the image. */
  click: (x: number, y: number, inside: boolean) => void;
  clear: () => void;
}

interface State {
  clicks: Click[];
  mask: Mask | null;
  overlay: OffscreenCanvas | null;
  error: string;
}

const NOTHING: State = { clicks: [], mask: null, overlay: null, error: "" };
const MOST_CLICKS = 64;
const COLOUR = "#39d98a";

let segmenter: Promise<boolean> | null = null;

/** Whether the server has a segmenter; asked once. */
function hasSegmenter(): Promise<boolean> {
  segmenter ??= call(getServerInfo, {}).then(
    (info) => Boolean(info.segmenter),
    () => {
      segmenter = null;
      return false;
    },
  );
  return segmenter;
}

/** The best mask of some clicks; an image that the server has forgotten is opened again. */
async function segmented(sha256: string, clicks: Click[], previous: Mask | null) {
  const request = { sha256, clicks, ...(previous && { previous }) };
  try {
    return await call(segment, request);
  } catch (error) {
    if (!(error instanceof CallError) || error.reason !== "image_not_open") throw error;
    await call(openImage, { sha256 });
    return call(segment, request);
  }
}

/** Masks of clicks on an image while `active`; `onBox` gets the box of each mask. */
export function useMaskClicks(
  sha256: string,
  active: boolean,
  onBox: (box: Rect) => void,
): MaskClicks {
  const [available, setAvailable] = useState(false);
  const [state, setState] = useState(NOTHING);
  // Answers that come late, for another image or after further clicks, are not shown.
  const turn = useRef(0);
  const latest = useRef(state);
  latest.current = state;
  const clear = () => {
    turn.current += 1;
    if (latest.current !== NOTHING) setState(NOTHING);
  };
  useEffect(() => {
    clear();
    if (!active) return;
    void hasSegmenter().then((there) => {
      setAvailable(there);
      // Encoded while the person aims. Where that fails, the click will tell.
      if (there) call(openImage, { sha256 }).catch(() => undefined);
    });
  }, [sha256, active]);

  const click = (x: number, y: number, inside: boolean) => {
    if (!available || latest.current.clicks.length >= MOST_CLICKS) return;
    const clicks = [...latest.current.clicks, { x, y, inside }];
    const now = ++turn.current;
    latest.current = { ...latest.current, clicks };
    setState(latest.current);
    segmented(sha256, clicks, latest.current.mask)
      .then(({ candidates = [] }) => {
        const mask = candidates[0]?.mask ?? null;
        if (now !== turn.current) return;
        const box = mask && boundsOf(mask);
        const overlay = mask && paintedMask(mask, COLOUR);
        setState({ clicks, mask, overlay, error: "" });
        if (box) onBox(box);
      })
      .catch((error: unknown) => {
        const words = messageOf(error);
        if (now === turn.current) setState({ ...latest.current, error: words });
      });
  };
  return { available, ...state, click, clear };
}
