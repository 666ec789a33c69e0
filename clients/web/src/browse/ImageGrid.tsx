// All images of a list as thumbnails. Only those in sight are in the page, however many there are.

import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { imageUrl } from "../api/connect";
import type { Outcome, RunImage } from "../api/messages";
import { texts } from "../texts";
import { step, useKeys } from "../ui/keys";
import type { ImageList } from "./list";

const TILE = 224;
const ROW = 212;
/** Rows above and below those in sight. */
const SPARE = 2;

interface Props {
  list: ImageList;
  /** In the order that the boxes count by. */
  palette: string[];
  /** The place that has the focus. */
  at: number;
  onMove: (index: number) => void;
  onOpen: (image: RunImage, index: number) => void;
}

const DASHES: Partial<Record<Outcome, string>> = { OUTCOME_UNSURE: "7 5" };

/** The boxes of an image: one path a class and outcome, as a screen has thousands of boxes. */
function Boxes({ image, palette }: { image: RunImage; palette: string[] }) {
  const { classIndex = [], outcome = [], xyxy = [] } = image.boxes ?? {};
  const paths = new Map<string, { at: number; dash: string | undefined; d: string }>();
  classIndex.forEach((at, index) => {
    const dash = DASHES[outcome[index] ?? "OUTCOME_UNSPECIFIED"];
    const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = xyxy.slice(index * 4, index * 4 + 4);
    const path = paths.get(`${at} ${dash}`) ?? { at, dash, d: "" };
    path.d += `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
    paths.set(`${at} ${dash}`, path);
  });
  return (
    <svg viewBox={`0 0 ${image.width ?? 1} ${image.height ?? 1}`} aria-hidden="true">
      {[...paths].map(([key, { at, dash, d }]) => (
        <path key={key} d={d} stroke={palette[at] ?? "#888888"} stroke-dasharray={dash} />
      ))}
    </svg>
  );
}

interface TileProps {
  image: RunImage | undefined;
  index: number;
  total: number;
  focused: boolean;
  palette: string[];
  /** The same function at each call, so that a tile is made anew only when it changed. */
  onOpen: (image: RunImage, index: number) => void;
}

/** A thumbnail with its boxes; empty until its page has come. */
function Tile({ image, index, total, focused, palette, onOpen }: TileProps) {
  return useMemo(() => {
    const place = { "aria-setsize": total, "aria-posinset": index + 1 };
    if (!image) return <li class="thumb empty" {...place} />;
    const width = TILE * (window.devicePixelRatio || 1);
    return (
      <li {...place}>
        <button
          type="button"
          class="thumb"
          data-index={index}
          tabIndex={focused ? 0 : -1}
          title={image.name}
          onClick={() => onOpen(image, index)}
        >
          <span class="frame">
            <img src={imageUrl(image.sha256 ?? "", width)} alt="" draggable={false} />
            <Boxes image={image} palette={palette} />
          </span>
          <span class="caption">
            <span class="name">{image.name}</span>
            <span class="quiet">{texts.browse.counts(image.accepted ?? 0, image.unsure ?? 0)}</span>
          </span>
        </button>
      </li>
    );
  }, [image, index, total, focused, palette, onOpen]);
}

export function ImageGrid({ list, palette, at, onMove, onOpen }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const latest = useRef(onOpen);
  latest.current = onOpen;
  const open = useCallback<Props["onOpen"]>((...what) => latest.current(...what), []);
  const [size, setSize] = useState({ columns: 1, rows: 1 });
  const [first, setFirst] = useState(0);
  // Somebody uses the keys, or came back from an image: the focus follows.
  const moved = useRef(at > 0);
  const total = list.total ?? 0;
  const rows = Math.ceil(total / size.columns);

  useLayoutEffect(() => {
    const element = box.current!;
    const measure = () =>
      setSize({
        columns: Math.max(Math.floor(element.clientWidth / TILE), 1),
        rows: Math.ceil(element.clientHeight / ROW) + 1,
      });
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const scrolled = useCallback(() => {
    setFirst(Math.max(Math.floor((box.current?.scrollTop ?? 0) / ROW) - SPARE, 0));
  }, []);
  // Back from an image, the grid is where it was.
  useLayoutEffect(() => {
    const element = box.current!;
    const row = Math.floor(at / size.columns);
    const [top, bottom] = [row * ROW, (row + 1) * ROW];
    if (top < element.scrollTop) element.scrollTop = top;
    else if (bottom > element.scrollTop + element.clientHeight) {
      element.scrollTop = bottom - element.clientHeight;
    }
    scrolled();
  }, [at, size, total > 0]);
  // Before the next key: Enter opens what has the focus.
  useLayoutEffect(() => {
    if (!moved.current) return;
    box.current?.querySelector<HTMLElement>(`[data-index="${at}"]`)?.focus({ preventScroll: true });
  });

  const last = Math.min(first + size.rows + 2 * SPARE, rows);
  const [from, to] = [first * size.columns, Math.min(last * size.columns, total)];
  useEffect(() => list.want(from, Math.max(to, 1)), [list, from, to]);

  useKeys((key) => {
    const way = step(key);
    if (!way || !total) return false;
    moved.current = true;
    onMove(Math.min(Math.max(at + way[0] + way[1] * size.columns, 0), total - 1));
    return true;
  });

  const places = Array.from({ length: Math.max(to - from, 0) }, (_, index) => from + index);
  return (
    <div class="image-grid" ref={box} onScroll={scrolled}>
      <div style={{ height: `${rows * ROW}px` }}>
        <ul
          aria-label={texts.browse.gridLabel}
          style={{
            transform: `translateY(${first * ROW}px)`,
            gridTemplateColumns: `repeat(${size.columns}, minmax(0, 1fr))`,
          }}
        >
          {places.map((index) => (
            <Tile
              key={index}
              index={index}
              image={list.get(index)}
              total={total}
              focused={index === at}
              palette={palette}
              onOpen={open}
            />
          ))}
        </ul>
      </div>
    </div>
  );
}
