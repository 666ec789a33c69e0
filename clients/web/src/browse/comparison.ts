// What differs between two runs, fetched part by part.

import { call, messageOf } from "../api/connect";
import { compareRuns, type ComparedClass, type ComparedImage } from "../api/messages";

/** Images that differ of one part, at most. */
const PART = 50;
const COUNTS = ["same", "moved", "classChanged", "lost", "gained"] as const;

/** A comparison, as far as it was asked for. */
export class RunComparison {
  images: ComparedImage[] = [];
  classes: ComparedClass[] = [];
  compared = 0;
  onlyBefore = 0;
  loading = false;
  ended = false;
  error = "";
  onChange: () => void = () => undefined;

  private cursor = "0";
  private controller = new AbortController();

  constructor(
    readonly before: string,
    readonly after: string,
  ) {}

  close(): void {
    this.controller.abort();
    this.onChange = () => undefined;
  }

  /** Compare on, until there are some more images that differ. */
  async more(): Promise<void> {
    if (this.loading || this.ended) return;
    this.loading = true;
    this.error = "";
    const wanted = this.images.length + PART;
    try {
      while (!this.ended && this.images.length < wanted) await this.part();
    } catch (error) {
      if (this.controller.signal.aborted) return;
      this.error = messageOf(error);
    }
    this.loading = false;
    this.onChange();
  }

  private async part(): Promise<void> {
    const { before, after, cursor } = this;
    const request = { before, after, cursor, pageSize: PART };
    const answer = await call(compareRuns, request, this.controller.signal);
    this.images.push(...(answer.images ?? []));
    this.compared += Number(answer.compared ?? 0);
    this.onlyBefore += Number(answer.onlyBefore ?? 0);
    this.add(answer.classes ?? []);
    this.cursor = answer.nextCursor ?? "0";
    this.ended = this.cursor === "0";
    this.onChange();
  }

  private add(classes: ComparedClass[]): void {
    const known = new Map(this.classes.map((one) => [one.className, one]));
    for (const one of classes) {
      const before = known.get(one.className) ?? { className: one.className ?? "" };
      const sums = COUNTS.map((name) => [
        name,
        String(Number(before[name] ?? 0) + Number(one[name] ?? 0)),
      ]);
      known.set(one.className, { ...before, ...Object.fromEntries(sums) });
    }
    this.classes = [...known.values()];
  }
}
