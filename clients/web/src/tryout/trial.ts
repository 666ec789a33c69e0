// Images labelled with some classes, and decided again under other thresholds without a model.

import { call, messageOf } from "../api/connect";
import {
  finishUpload,
  getRunImages,
  label,
  previewDecisions,
  type ClassSpec,
  type Judgement,
  type Labelled,
  type Ontology,
} from "../api/messages";
import { ontologyOf, type Thresholds } from "./ontology";

/** An image that is tried. */
export interface TriedImage {
  id: string;
  name: string;
  bytes: Blob;
  state: "waiting" | "labelling" | "done" | "failed";
  failure: string;
  labelled: Labelled | null;
  /** Names its result in the run. */
  cursor: string;
  /** As decided under the thresholds of now. */
  judgements: Judgement[];
}

/** Questions are asked from this score on, so that a slider can go down to it without a model. */
export const LOWEST_ASKED = 0.15;
/** Images that are labelled at a time. */
const TOGETHER = 2;
const PREFIX = "try ";

/** Runs that were labelled for their labels first, those of this view last. */
export function usefulFirst<T extends { name?: string }>(runs: readonly T[]): T[] {
  const tried = (one: T) => Number(one.name?.startsWith(PREFIX) ?? false);
  return [...runs].sort((a, b) => tried(a) - tried(b));
}

/** An image that waits to be labelled. */
export function triedImage(bytes: Blob, name: string): TriedImage {
  const id = crypto.randomUUID();
  return {
    id,
    name,
    bytes,
    state: "waiting",
    failure: "",
    labelled: null,
    cursor: "",
    judgements: [],
  };
}

async function base64(bytes: Blob): Promise<string> {
  const reader = new FileReader();
  const read = new Promise<string>((done, fail) => {
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => fail(reader.error ?? new Error("unreadable"));
  });
  reader.readAsDataURL(bytes);
  const address = await read;
  return address.slice(address.indexOf(",") + 1);
}

/** One run over some images. Kept on the server under `run`, where decisions are previewed. */
export class Trial {
  readonly run: string;
  private ontology: Ontology;
  private controller = new AbortController();
  private deciding = false;
  private again = false;
  private thresholds: ReadonlyMap<string, Thresholds>;
  /** Its boxes are seen, so it is decided first; the others when the slider rests. */
  private inView: TriedImage | undefined;

  constructor(
    readonly images: TriedImage[],
    readonly classes: ClassSpec[],
    thresholds: ReadonlyMap<string, Thresholds>,
    private onChange: () => void,
  ) {
    const moment = new Date().toISOString().slice(0, 19).replace("T", " ");
    this.run = `${PREFIX}${moment} ${crypto.randomUUID().slice(0, 8)}`;
    this.thresholds = thresholds;
    const lowest = Math.min(LOWEST_ASKED, ...[...thresholds.values()].map((one) => one.threshold));
    this.ontology = ontologyOf(classes, lowest);
  }

  get running(): boolean {
    return this.images.some((one) => one.state === "waiting" || one.state === "labelling");
  }

  /** Label every image; ends when all are labelled or failed, or when it is stopped. */
  async start(): Promise<void> {
    for (const image of this.images) {
      Object.assign(image, { state: "waiting", failure: "", labelled: null, cursor: "" });
      image.judgements = [];
    }
    const waiting = [...this.images];
    const work = async () => {
      for (let one = waiting.shift(); one && !this.stopped; one = waiting.shift()) {
        await this.labelOne(one);
      }
    };
    await Promise.all(Array.from({ length: TOGETHER }, work));
    // Else the run would wait for more images; where nothing was kept there is none.
    await call(finishUpload, { job: this.run }).catch(() => undefined);
  }

  stop(): void {
    this.controller.abort();
    for (const one of this.images) if (one.state !== "done") one.state = "failed";
    this.onChange();
  }

  /** Decide again, without a model, the image in view first. */
  decide(thresholds: ReadonlyMap<string, Thresholds>, inView?: TriedImage): void {
    this.thresholds = thresholds;
    this.inView = inView;
    if (this.deciding) this.again = true;
    else void this.preview();
  }

  private get stopped(): boolean {
    return this.controller.signal.aborted;
  }

  private async labelOne(image: TriedImage): Promise<void> {
    image.state = "labelling";
    this.onChange();
    const { signal } = this.controller;
    try {
      const request = {
        image: await base64(image.bytes),
        name: image.name,
        ontology: this.ontology,
        keep: this.run,
      };
      const { labelled } = await call(label, request, signal);
      const found = await call(
        getRunImages,
        { run: this.run, sha256: [labelled?.sha256 ?? ""] },
        signal,
      );
      image.labelled = labelled ?? null;
      image.cursor = found.images?.[0]?.cursor ?? "";
      image.state = "done";
      await this.preview();
    } catch (error) {
      image.state = "failed";
      image.failure = signal.aborted ? "" : messageOf(error);
    }
    this.onChange();
  }

  private async preview(): Promise<void> {
    this.deciding = true;
    do {
      this.again = false;
      const first = this.images.filter((one) => one === this.inView && one.cursor);
      await this.previewSome(first);
      this.onChange();
      const others = this.images.filter((one) => one.cursor && !first.includes(one));
      if (!this.again) await this.previewSome(others);
    } while (this.again);
    this.deciding = false;
    this.onChange();
  }

  private async previewSome(images: TriedImage[]): Promise<void> {
    const cursors = images.map((one) => one.cursor);
    if (!cursors.length) return;
    // The sliders may know classes of another trial.
    const own = new Set(["", ...this.classes.map((one) => one.name)]);
    const classes = [...this.thresholds]
      .filter(([className]) => own.has(className))
      .map(([className, one]) => ({ className, ...one }));
    const answer = await call(
      previewDecisions,
      { run: this.run, cursors, classes },
      this.controller.signal,
    );
    for (const { cursor, judgements = [] } of answer.images ?? []) {
      const image = this.images.find((one) => one.cursor === cursor);
      if (image) image.judgements = judgements.map((one) => withVerdict(one, image.labelled));
    }
  }
}

function sameBox(a: Judgement, b: Judgement): boolean {
  const [one, other] = [a.box, b.box];
  return (
    a.className === b.className &&
    one?.x1 === other?.x1 &&
    one?.y1 === other?.y1 &&
    one?.x2 === other?.x2 &&
    one?.y2 === other?.y2
  );
}

/** A previewed judgement with the answer that it rests on, which is not sent again. */
function withVerdict(one: Judgement, labelled: Labelled | null): Judgement {
  const known = labelled?.judgements?.find((other) => sameBox(one, other));
  return known?.verdict ? { ...one, verdict: known.verdict } : one;
}
