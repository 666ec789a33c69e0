// One person at one queue: what is asked now, what comes next, what was said, and undoing it.

import { call, CallError, messageOf } from "../api/connect";
import {
  getReviewQueue,
  nextReviewItems,
  releaseReviewItems,
  type AnswerReviewItemRequest,
  type NewReview,
  type ReviewItem,
  type ReviewQueue,
} from "../api/messages";
import type { Deed, Outbox } from "./outbox";

/** What a person says of a box. */
export type Said = Pick<
  AnswerReviewItemRequest,
  "answer" | "reason" | "newClass" | "newBox" | "mask"
>;

/** Something that was said and can be taken back. `item` is absent of an added review. */
export interface Done {
  deed: string;
  item: ReviewItem | null;
  said: Said | null;
  added: NewReview[];
  seconds: number;
  /** What was said with one key is taken back with one: reviews of a grid's screen share it. */
  group: string;
}

/** Items that one call brings on top of those that the person holds; half of them are kept ready. */
const BATCH = 32;
/** The same for a grid, whose screen has one class of many. */
const GRID_BATCH = 96;
/** The most that a call may ask for. */
const MOST = 100;
const LEASE_S = 900;
/** Nobody thinks longer about a box: they went away. */
const LONGEST_S = 120;
/** 0 would say that nobody measured. */
const SHORTEST_S = 0.001;
/** An answer's seconds are told as the median of so many. */
const RECENT = 50;
const RETRY_MS = 1000;

/** What the view shows. Call `onChange` is told of each change. */
export class ReviewSession {
  ready: ReviewItem[] = [];
  skipped: ReviewItem[] = [];
  history: Done[] = [];
  queue: ReviewQueue | null = null;
  /** No more items are handed out now. */
  ended = false;
  /** Why items cannot be fetched; empty when they can. */
  error = "";
  onChange: () => void = () => undefined;

  private batch = BATCH;
  /** Items that were asked, or whose answer from before is on its way. */
  private known: Set<string>;
  private filling = false;
  private closed = false;
  private since = 0;
  private timer = 0;
  /** Answers in this session whose effect is not in `queue.answered` yet. */
  private answeredHere = 0;

  constructor(
    readonly name: string,
    readonly person: string,
    private outbox: Outbox,
  ) {
    this.known = outbox.items;
  }

  /** What is asked now. */
  get current(): ReviewItem | undefined {
    return this.ready[0];
  }

  /** Answered of all, with what is on its way. */
  get answered(): number {
    return Number(this.queue?.answered ?? 0) + this.answeredHere;
  }

  /** Median seconds of the latest answers; null before the first. */
  get seconds(): number | null {
    const times = this.history
      .filter((one) => one.item)
      .slice(-RECENT)
      .map((one) => one.seconds)
      .sort((a, b) => a - b);
    return times.length ? (times[times.length >> 1] ?? null) : null;
  }

  async start(): Promise<void> {
    await this.fill();
    this.shown();
  }

  /** Hold many items, for a grid of one class. */
  async gather(): Promise<void> {
    this.batch = GRID_BATCH;
    await this.fill();
  }

  /** Hold a few items again. */
  scatter(): void {
    this.batch = BATCH;
  }

  /** Others get what was not answered at once. */
  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    const items = [...this.ready, ...this.skipped].map((one) => one.id ?? "");
    if (!items.length) return;
    call(releaseReviewItems, { person: this.person, items }).catch(() => undefined);
  }

  /** The current item is on the screen: its seconds count from now. */
  shown(): void {
    this.since = performance.now();
  }

  /** Answer the current item. */
  answer(said: Said): void {
    const item = this.ready.shift();
    if (item) this.keep(item, said, this.elapsed(), crypto.randomUUID());
    this.next();
  }

  /** Answer items of a grid, in the order shown; the time is shared. `then` are asked next. */
  answerAll(answers: [ReviewItem, Said][], then: ReviewItem[]): void {
    const each = this.elapsed() / Math.max(answers.length, 1);
    const moved = new Set([...answers.map(([item]) => item), ...then]);
    this.ready = [...then, ...this.ready.filter((one) => !moved.has(one))];
    const group = crypto.randomUUID();
    for (const [item, said] of answers) this.keep(item, said, each, group);
    this.next();
  }

  /** The current item's box holds two objects: what is said of it, and the box of the second. */
  split(said: Said, second: NewReview): void {
    const item = this.ready.shift();
    if (!item) return;
    const group = crypto.randomUUID();
    this.keep(item, said, this.elapsed(), group);
    this.keepAdded([second], group);
    this.next();
  }

  /** Keep reviews that the queue did not ask for: what is missing, or that nothing is. */
  add(reviews: NewReview[]): void {
    this.keepAdded(reviews, crypto.randomUUID());
    this.onChange();
  }

  private keepAdded(reviews: NewReview[], group: string): void {
    const moment = Date.now() / 1000;
    // The time tells a review from another, so that one sent twice is kept once.
    const added = reviews.map((one, at) => ({
      ...one,
      person: this.person,
      createdAt: moment + at / 1000,
    }));
    const deed: Deed = { kind: "add", id: crypto.randomUUID(), request: { reviews: added } };
    this.history.push({ deed: deed.id, item: null, said: null, added, seconds: 0, group });
    this.outbox.add(deed);
  }

  /** Ask about the current item later. */
  skip(): void {
    const item = this.ready.shift();
    if (item) this.skipped.push(item);
    this.next();
  }

  /** Take the last thing back; what it was about is asked again. */
  undo(): void {
    const group = this.history.at(-1)?.group;
    for (let last = this.history.at(-1); last && last.group === group; last = this.history.at(-1)) {
      this.history.pop();
      this.outbox.undo(last.deed, crypto.randomUUID(), this.person);
      if (last.item) {
        this.answeredHere -= 1;
        this.ready.unshift(last.item);
      }
    }
    this.next();
  }

  /** Forget an answer that the server refused; its item is with another person, or answered. */
  refused(deed: string): Done | undefined {
    const at = this.history.findIndex((one) => one.deed === deed);
    if (at < 0) return undefined;
    this.answeredHere -= 1;
    return this.history.splice(at, 1)[0];
  }

  private keep(item: ReviewItem, said: Said, seconds: number, group: string): void {
    const request = { item: item.id, person: this.person, seconds, ...said };
    const deed: Deed = { kind: "answer", id: crypto.randomUUID(), request };
    this.history.push({ deed: deed.id, item, said, added: [], seconds, group });
    this.answeredHere += 1;
    this.outbox.add(deed);
  }

  private next(): void {
    this.shown();
    if (this.ready.length < this.batch / 2 && !this.ended) void this.fill();
    if (!this.ready.length && this.skipped.length && this.ended) {
      this.ready = this.skipped.splice(0);
    }
    this.onChange();
  }

  private elapsed(): number {
    const passed = (performance.now() - this.since) / 1000;
    return Math.min(Math.max(passed, SHORTEST_S), LONGEST_S);
  }

  /** Ask for items, until enough are ready or there are none. */
  private async fill(): Promise<void> {
    if (this.filling || this.closed) return;
    this.filling = true;
    try {
      await this.ask();
      this.error = "";
    } catch (error) {
      this.error = messageOf(error);
      const again = error instanceof CallError && error.transient;
      if (again) this.timer = window.setTimeout(() => void this.fill(), RETRY_MS);
    } finally {
      this.filling = false;
    }
    if (!this.ready.length && this.skipped.length && this.ended) {
      this.ready = this.skipped.splice(0);
    }
    if (!this.closed) this.onChange();
  }

  private async ask(): Promise<void> {
    // The answer begins with what the person holds already, so ask for that many more.
    const held = this.ready.length + this.skipped.length + this.outbox.items.size;
    const count = Math.min(held + this.batch, MOST);
    const request = { queue: this.name, person: this.person, count, leaseS: LEASE_S };
    const [{ items = [] }, { queue }] = await Promise.all([
      call(nextReviewItems, request),
      call(getReviewQueue, { name: this.name }),
    ]);
    this.queue = queue ?? null;
    this.answeredHere = this.outbox.items.size;
    const fresh = items.filter((one) => !this.known.has(one.id ?? ""));
    for (const one of fresh) this.known.add(one.id ?? "");
    if (!this.ready.length) this.shown();
    this.ready.push(...fresh);
    this.ended = !fresh.length && items.length < count;
  }
}
