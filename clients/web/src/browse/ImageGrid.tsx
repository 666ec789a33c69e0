// All images of a list as thumbnails. Only those in sight are in the page, however many there are.

import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { RunImage } from "../api/messages";
import { texts } from "../texts";
import { step, useKeys } from "../ui/keys";
import { GridCanvas, ROW } from "./gridCanvas";
import type { ImageList } from "./list";

/** A tile is at least so wide, with the gap beside it; pixels of the page. */
const TILE = 224;
const GAP = 10;
/** Rows above and below those in sight. */
const SPARE = 2;

interface Props {
  list: ImageList;
  /** In the order that the boxes count by; null: not known yet. */
  palette: string[] | null;
  /** The place that has the focus. */
  at: number;
  onMove: (index: number) => void;
  onOpen: (image: RunImage, index: number) => void;
}

interface TileProps {
  image: RunImage | undefined;
  index: number;
  total: number;
  columns: number;
  /** Pixels of the page. */
  width: number;
  focused: boolean;
  /** The same function at each call, so that a tile is made anew only when it changed. */
  onOpen: (image: RunImage, index: number) => void;
}

/** What is pressed of a tile; its pixels are on the canvas. It shows one image after the other. */
function Tile({ image, index, total, columns, width, focused, onOpen }: TileProps) {
  const button = useRef<HTMLButtonElement>(null);
  // What had the focus was scrolled away: its tile is another image's now.
  useLayoutEffect(() => {
    if (!focused && document.activeElement === button.current) button.current?.blur();
  }, [index]);
  return useMemo(() => {
    const counts = texts.browse.counts(image?.accepted ?? 0, image?.unsure ?? 0);
    const top = Math.floor(index / columns) * ROW;
    const left = (index % columns) * (width + GAP);
    return (
      <li
        aria-setsize={total}
        aria-posinset={index + 1}
        style={{ width: `${width}px`, transform: `translate(${left}px, ${top}px)` }}
      >
        {image && (
          <button
            type="button"
            class="thumb"
            ref={button}
            data-index={index}
            tabIndex={focused ? 0 : -1}
            title={image.name}
            aria-label={`${image.name ?? ""}, ${counts}`}
            onClick={() => onOpen(image, index)}
          />
        )}
      </li>
    );
  }, [image, index, total, columns, width, focused, onOpen]);
}

export function ImageGrid({ list, palette, at, onMove, onOpen }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const painter = useRef<GridCanvas | null>(null);
  const latest = useRef(onOpen);
  latest.current = onOpen;
  const open = useCallback<Props["onOpen"]>((...what) => latest.current(...what), []);
  const [size, setSize] = useState({ across: 1, down: 1, columns: 1, width: TILE });
  const [first, setFirst] = useState(0);
  // Somebody uses the keys, or came back from an image: the focus follows.
  const moved = useRef(at > 0);
  const total = list.total ?? 0;
  const { columns, width } = size;
  const rows = Math.ceil(total / columns);

  useLayoutEffect(() => {
    const element = box.current!;
    const made = (painter.current = new GridCanvas(canvas.current!));
    const measure = () => {
      const [across, down] = [element.clientWidth, element.clientHeight];
      const columns = Math.max(Math.floor(across / TILE), 1);
      setSize({ across, down, columns, width: Math.floor(across / columns) - GAP });
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.close();
    };
  }, []);
  useLayoutEffect(() => {
    painter.current?.resize(size.across, size.down, { columns, width, palette });
  }, [size, palette]);

  const scrolled = useCallback(() => {
    const top = box.current?.scrollTop ?? 0;
    painter.current?.scroll(top);
    setFirst(Math.max(Math.floor(top / ROW) - SPARE, 0));
  }, []);
  // Back from an image, the grid is where it was.
  useLayoutEffect(() => {
    const element = box.current!;
    const row = Math.floor(at / columns);
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

  const high = Math.ceil(size.down / ROW) + 1 + 2 * SPARE;
  const [from, to] = [first * columns, Math.min((first + high) * columns, total)];
  useEffect(() => list.want(from, Math.max(to, 1)), [list, from, to]);
  useLayoutEffect(() => painter.current?.show(from, to, (index) => list.get(index)));

  useKeys((key) => {
    const way = step(key);
    if (!way || !total) return false;
    moved.current = true;
    onMove(Math.min(Math.max(at + way[0] + way[1] * columns, 0), total - 1));
    return true;
  });

  // A tile that is scrolled out becomes one of the next row: its place in the document stays. The
  // order is told by aria-posinset.
  const slots = high * columns;
  const shown = Array.from({ length: slots }, (_, slot) => {
    const index = from + ((slot - (from % slots) + slots) % slots);
    return index < to ? index : -1;
  });
  return (
    <div class="image-grid" ref={box} onScroll={scrolled}>
      <canvas ref={canvas} aria-hidden="true" />
      <ul aria-label={texts.browse.gridLabel} style={{ height: `${rows * ROW}px` }}>
        {shown.map(
          (index, slot) =>
            index >= 0 && (
              <Tile
                key={slot}
                index={index}
                image={list.get(index)}
                total={total}
                columns={columns}
                width={width}
                focused={index === at}
                onOpen={open}
              />
            ),
        )}
      </ul>
    </div>
  );
}
