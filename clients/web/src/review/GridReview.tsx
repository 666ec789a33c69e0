// A screen of crops of one class: click the exceptions, Enter answers the rest as right.
//
// Each box is a review of its own. Exceptions stay in the queue, and are asked about one by one.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { imageUrl } from "../api/connect";
import type { ReviewItem } from "../api/messages";
import { rectOf, type Rect } from "../canvas/geometry";
import { texts } from "../texts";
import { step, useKeys } from "../ui/keys";
import { ClassMark, Key } from "../ui/parts";
import { StoredImage } from "../ui/StoredImage";
import type { ReviewSession } from "./session";

interface Props {
  session: ReviewSession;
  colours: Map<string, string>;
  onSingle: () => void;
  announce: (text: string) => void;
}

const MOST = 24;
const CROP = 256;
const MARGIN = 0.15;

/** A square around the box, where the image has room for one; corners in pixels. */
function around(item: ReviewItem): Rect {
  const { x1, y1, x2, y2 } = rectOf(item.box);
  const [width, height] = [item.width ?? 1, item.height ?? 1];
  const side = Math.max(x2 - x1, y2 - y1) * (1 + 2 * MARGIN);
  const span = (low: number, high: number, most: number) => {
    const begin = Math.min(Math.max((low + high - side) / 2, 0), Math.max(most - side, 0));
    return [Math.floor(begin), Math.ceil(Math.min(begin + side, most))] as const;
  };
  const [[left, right], [top, bottom]] = [span(x1, x2, width), span(y1, y2, height)];
  return { x1: left, y1: top, x2: right, y2: bottom };
}

/** The crop of an item, with its box. */
function Crop({ item, colour }: { item: ReviewItem; colour: string }) {
  const { x1, y1, x2, y2 } = around(item);
  const box = rectOf(item.box);
  const address = `${imageUrl(item.image ?? "", CROP)}&crop=${x1},${y1},${x2},${y2}`;
  return (
    <span class="frame">
      <StoredImage address={address} />
      <svg viewBox={`${x1} ${y1} ${x2 - x1} ${y2 - y1}`} aria-hidden="true">
        <rect
          x={box.x1}
          y={box.y1}
          width={box.x2 - box.x1}
          height={box.y2 - box.y1}
          stroke={colour}
        />
      </svg>
    </span>
  );
}

/** The class that most of the ready items have, and the first of them. */
function screenOf(ready: readonly ReviewItem[]): [string, ReviewItem[]] {
  const counts = new Map<string, number>();
  for (const { className = "" } of ready) counts.set(className, (counts.get(className) ?? 0) + 1);
  const [name = ""] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [];
  return [name, ready.filter((one) => (one.className ?? "") === name).slice(0, MOST)];
}

export function GridReview({ session, colours, onSingle, announce }: Props) {
  const [exceptions, setExceptions] = useState<ReadonlySet<string>>(new Set());
  const [gathered, setGathered] = useState(false);
  const [name, items] = useMemo(
    () => screenOf(gathered ? session.ready : []),
    // A screen stays as it is until it is answered, whatever comes meanwhile.
    [session.history.length, gathered, session.ready.length === 0],
  );
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    void session.gather().then(() => setGathered(true));
    return () => session.scatter();
  }, [session]);
  useEffect(() => {
    setExceptions(new Set());
    session.shown();
  }, [items]);

  const toggle = (id: string) => {
    const changed = new Set(exceptions);
    if (!changed.delete(id)) changed.add(id);
    setExceptions(changed);
  };
  const right = items.filter((one) => !exceptions.has(one.id ?? ""));
  const answer = () => {
    if (!items.length) return;
    const later = items.filter((one) => exceptions.has(one.id ?? ""));
    session.answerAll(
      right.map((one) => [one, { answer: "REVIEW_ANSWER_RIGHT" }]),
      later,
    );
    announce(texts.grid.answer(right.length));
    // The exceptions come next, one by one.
    if (exceptions.size) onSingle();
  };
  /** Take the latest screen back. */
  const undo = () => {
    session.undo();
    announce(texts.review.undone(session.current?.className ?? ""));
  };
  const move = (dx: number, dy: number) => {
    const tiles = [...(list.current?.querySelectorAll("button") ?? [])];
    const top = tiles[0]?.getBoundingClientRect().top;
    const columns = tiles.filter((one) => one.getBoundingClientRect().top === top).length || 1;
    const at = tiles.indexOf(document.activeElement as HTMLButtonElement);
    tiles[Math.min(Math.max(at < 0 ? 0 : at + dx + dy * columns, 0), tiles.length - 1)]?.focus();
  };
  useKeys((key) => {
    const way = step(key);
    if (way) move(...way);
    else if (key === "Enter") answer();
    else if (key === "G") onSingle();
    else if (key === "Z" || key === "Backspace") undo();
    else return false;
    return true;
  });
  // Enter on a tile answers the screen, as everywhere here; the space bar marks the tile.
  const enter = (event: KeyboardEvent) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    answer();
  };

  if (!gathered) return <p class="waiting">{texts.loading}</p>;
  return (
    <section class="grid-review" aria-label={texts.grid.label}>
      <h2 class="question">
        {texts.grid.why(name)} <ClassMark name={name} colours={colours} />
      </h2>
      <ul class="tiles" ref={list}>
        {items.map((item) => {
          const marked = exceptions.has(item.id ?? "");
          return (
            <li key={item.id}>
              <button
                type="button"
                class="tile"
                aria-pressed={marked}
                aria-label={texts.grid.tile(item.imageName ?? "", marked)}
                onClick={() => toggle(item.id ?? "")}
                onKeyDown={enter}
              >
                <Crop item={item} colour={colours.get(name) ?? "#888888"} />
                {marked && <span class="flag">{texts.grid.exception}</span>}
              </button>
            </li>
          );
        })}
      </ul>
      <div class="answers wide" role="group" aria-label={texts.review.answers}>
        <button type="button" class="yes" onClick={answer} disabled={!items.length}>
          {texts.grid.answerRest(right.length, exceptions.size)} <Key>Enter</Key>
        </button>
        <button type="button" onClick={undo} disabled={!session.history.length}>
          {texts.review.undo} <Key>Z</Key>
        </button>
      </div>
    </section>
  );
}
