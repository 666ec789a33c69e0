// The images of a run that meet a filter, fetched a page at a time from any place on.

import { call, messageOf } from "../api/connect";
import {
  listRunImages,
  type Outcome,
  type RunImage,
  type RunImageFilter,
  type RunImageOrder,
} from "../api/messages";

/** What is listed, and how. */
export interface Query {
  run: string;
  filter: RunImageFilter;
  order: RunImageOrder;
  reverse: boolean;
}

const PAGE = 100;
/** Pages that are held; those looked at last stay. */
const HELD = 20;
/** While somebody scrolls fast, nothing is asked for. */
const SETTLE_MS = 60;
const SHOWN: Outcome[] = ["OUTCOME_ACCEPT", "OUTCOME_UNSURE"];

/** One list. Another query is another list. */
export class ImageList {
  total: number | null = null;
  ofRun = 0;
  error = "";
  onChange: () => void = () => undefined;

  private pages = new Map<number, RunImage[]>();
  private asked = new Set<number>();
  private timer = 0;
  private controller = new AbortController();

  constructor(readonly query: Query) {}

  /** The image at a place; undefined until it has come. */
  get(index: number): RunImage | undefined {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  /** The place of an image among those that are held; -1: it is not held. */
  find(cursor: string): number {
    for (const [page, images] of this.pages) {
      const at = images.findIndex((one) => one.cursor === cursor);
      if (at >= 0) return page * PAGE + at;
    }
    return -1;
  }

  /** The images from one place up to another are looked at. */
  want(from: number, to: number): void {
    clearTimeout(this.timer);
    const ask = () => {
      for (let page = Math.floor(from / PAGE); page * PAGE < to; page++) void this.fetch(page);
    };
    if (this.total === null) ask();
    else this.timer = window.setTimeout(ask, SETTLE_MS);
  }

  /** Ask for everything anew. */
  again(): void {
    this.pages.clear();
    this.error = "";
    this.total = null;
    this.onChange();
  }

  close(): void {
    clearTimeout(this.timer);
    this.controller.abort();
    this.onChange = () => undefined;
  }

  private async fetch(page: number): Promise<void> {
    const held = this.pages.get(page);
    if (held) {
      this.pages.delete(page);
      this.pages.set(page, held);
      return;
    }
    if (this.asked.has(page) || (this.total !== null && page * PAGE >= this.total)) return;
    this.asked.add(page);
    try {
      const offset = String(page * PAGE);
      const request = { ...this.query, offset, pageSize: PAGE, boxes: SHOWN };
      const answer = await call(listRunImages, request, this.controller.signal);
      this.total = Number(answer.total ?? 0);
      this.ofRun = Number(answer.imagesOfRun ?? 0);
      this.pages.set(page, answer.images ?? []);
      this.error = "";
    } catch (error) {
      if (this.controller.signal.aborted) return;
      this.error = messageOf(error);
    } finally {
      this.asked.delete(page);
    }
    for (const old of [...this.pages.keys()].slice(0, -HELD)) this.pages.delete(old);
    this.onChange();
  }
}
