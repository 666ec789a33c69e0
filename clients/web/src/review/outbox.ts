// What a person said and the server has not confirmed yet: kept across reloads, sent in order.
//
// A review is sent until the server confirms or refuses it. Sending twice is harmless: an item of a
// queue has one answer, an added review is told by its time, and what is undone twice is undone.

import { CallError, call } from "../api/connect";
import {
  addReviews,
  answerReviewItem,
  undoReview,
  type AddReviewsRequest,
  type AnswerReviewItemRequest,
} from "../api/messages";

/** One thing to tell the server. `id` is unique, and names it in the history of a session. */
export type Deed =
  | { kind: "answer"; id: string; request: AnswerReviewItemRequest }
  | { kind: "add"; id: string; request: AddReviewsRequest }
  | { kind: "undo"; id: string; of: string; person: string };

/** The part of `Storage` that is used. */
export type Keep = Pick<Storage, "getItem" | "setItem" | "removeItem">;
/** Tells the server one thing; gives the numbers of the reviews that were made. */
export type Send = (deed: Deed, reviews: Reviews) => Promise<string[]>;
/** Numbers of the reviews that a deed made, by its id. */
type Reviews = ReadonlyMap<string, string[]>;

/** What the keys of kept outboxes begin with; one a tab. */
const PREFIX = "secondlook.outbox.";
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5000;
/** To make a request takes milliseconds: the frame that shows the next item comes first. */
const AFTER_FRAME_MS = 25;
/** Codes of a server that failed for a reason of its own, which may be gone at the next try. */
const DOUBTFUL = new Set(["internal", "unknown"]);
const MOST_DOUBTS = 5;

/** Sends one deed. */
export const send: Send = async (deed, reviews) => {
  if (deed.kind === "answer") {
    const { review } = await call(answerReviewItem, deed.request);
    return [review?.id ?? ""];
  }
  if (deed.kind === "add") {
    const { reviews: made } = await call(addReviews, deed.request);
    return (made ?? []).map((one) => one.id ?? "");
  }
  for (const id of [...(reviews.get(deed.of) ?? [])].reverse()) {
    await call(undoReview, { id, person: deed.person });
  }
  return [];
};

/** The deeds that wait, and what became of those before. */
export class Outbox {
  private waiting: Deed[] = [];
  private reviews = new Map<string, string[]>();
  private sending: string | null = null;
  private tried = new Set<string>();
  private timer = 0;
  private pause = FIRST_PAUSE_MS;
  private doubts = 0;
  /** Whether the server could not be reached at the last try. */
  lost = false;
  onChange: () => void = () => undefined;
  /** A deed was refused for good. */
  onRefused: (deed: Deed, error: CallError) => void = () => undefined;

  constructor(
    private keep: Keep,
    readonly key: string,
    private tell: Send = send,
  ) {}

  /** Deeds that the server has not confirmed. */
  get count(): number {
    return this.waiting.length;
  }

  /** Items whose answer the server has not confirmed, and nobody took back. */
  get items(): Set<string> {
    const undone = new Set(this.waiting.flatMap((one) => (one.kind === "undo" ? [one.of] : [])));
    const answers = this.waiting.filter((one) => one.kind === "answer" && !undone.has(one.id));
    return new Set(answers.map((one) => (one.kind === "answer" ? (one.request.item ?? "") : "")));
  }

  /** Send what another outbox kept under `key` and did not send. */
  takeOver(key: string): void {
    try {
      const kept = JSON.parse(this.keep.getItem(key) ?? "{}") as Partial<Kept>;
      this.waiting.push(...(kept.waiting ?? []));
      for (const [id, made] of kept.reviews ?? []) this.reviews.set(id, made);
      for (const id of kept.tried ?? []) this.tried.add(id);
      this.save();
    } catch {
      // It was cut off while it was written: nothing in it can be read.
    }
    this.keep.removeItem(key);
    this.wake();
  }

  add(deed: Deed): void {
    this.waiting.push(deed);
    this.save();
    this.onChange();
    if (!this.timer) this.timer = window.setTimeout(() => this.wake(), AFTER_FRAME_MS);
  }

  /** Take back what `of` said: forgotten where it was never sent, else undone at the server. */
  undo(of: string, id: string, person: string): void {
    const at = this.waiting.findIndex((one) => one.id === of);
    if (at >= 0 && !this.tried.has(of)) this.waiting.splice(at, 1);
    else this.waiting.push({ kind: "undo", id, of, person });
    this.save();
    this.wake();
    this.onChange();
  }

  /** Try again now. */
  wake(): void {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.sending) void this.run();
  }

  private async run(): Promise<void> {
    for (let deed = this.waiting[0]; deed && !this.sending; deed = this.waiting[0]) {
      this.sending = deed.id;
      if (!this.tried.has(deed.id)) {
        this.tried.add(deed.id);
        this.save();
      }
      const again = await this.attempt(deed);
      this.sending = null;
      this.onChange();
      if (again) {
        this.timer = window.setTimeout(() => this.wake(), this.pause);
        this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
        return;
      }
      this.pause = FIRST_PAUSE_MS;
    }
  }

  /** Whether the deed is to be sent again. */
  private async attempt(deed: Deed): Promise<boolean> {
    try {
      this.reviews.set(deed.id, await this.tell(deed, this.reviews));
      this.lost = false;
    } catch (error) {
      const known = error instanceof CallError ? error : new CallError("unknown", String(error));
      const doubtful = DOUBTFUL.has(known.code) && ++this.doubts < MOST_DOUBTS;
      if (known.transient || doubtful) {
        this.lost = true;
        this.pause = Math.max(this.pause, known.retryAfterMs);
        return true;
      }
      this.lost = false;
      this.onRefused(deed, known);
    }
    this.doubts = 0;
    this.waiting = this.waiting.filter((one) => one !== deed);
    this.tried.delete(deed.id);
    this.save();
    return false;
  }

  private save(): void {
    if (!this.waiting.length) return this.keep.removeItem(this.key);
    const undone = this.waiting.flatMap((one) => (one.kind === "undo" ? [one.of] : []));
    const reviews = undone.flatMap((id) => {
      const made = this.reviews.get(id);
      return made ? [[id, made] as [string, string[]]] : [];
    });
    const kept: Kept = { waiting: this.waiting, reviews, tried: [...this.tried] };
    try {
      this.keep.setItem(this.key, JSON.stringify(kept));
    } catch {
      // The browser's storage is full: what waits is sent all the same, as long as the tab is open.
    }
  }
}

interface Kept {
  waiting: Deed[];
  reviews: [string, string[]][];
  tried: string[];
}

/** Hold the lock `name` until the tab is closed; false where another tab holds it. */
function hold(name: string): Promise<boolean> {
  return new Promise((done) => {
    void navigator.locks.request(name, { ifAvailable: true }, (lock) => {
      done(lock !== null);
      return lock ? new Promise<never>(() => undefined) : null;
    });
  });
}

/** The outbox of this tab, with what closed tabs of this browser could not send. */
export async function openOutbox(): Promise<Outbox> {
  const own = new Outbox(localStorage, PREFIX + crypto.randomUUID());
  // Locks exist only where the page came over HTTPS or from this machine.
  if (!("locks" in navigator)) return own;
  await hold(own.key);
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX) && key !== own.key && (await hold(key))) own.takeOver(key);
  }
  return own;
}
