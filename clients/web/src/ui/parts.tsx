// Small parts that several views use.

import { messageOf } from "../api/connect";
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Judgement, Outcome } from "../api/messages";
import type { ShownBox, Style } from "../canvas/viewer";
import { rectOf } from "../canvas/geometry";
import { texts } from "../texts";

/** A key as it is printed on a keyboard. */
export function Key(props: { children: ComponentChildren }) {
  return <kbd aria-hidden="true">{props.children}</kbd>;
}

/** A figure in [0, 1] with two digits, or a dash. */
export function share(value: number | undefined | null): string {
  return value === undefined || value === null ? texts.none : value.toFixed(2);
}

const STYLES: Record<Outcome, Style> = {
  OUTCOME_UNSPECIFIED: "dotted",
  OUTCOME_ACCEPT: "solid",
  OUTCOME_UNSURE: "dashed",
  OUTCOME_REJECT: "dotted",
};

/** A judgement as it is drawn. */
export function shownBox(one: Judgement, colours: Map<string, string>): ShownBox {
  const name = one.className ?? "";
  const yes = one.verdict?.pYes;
  const figures =
    yes === undefined ? share(one.score ?? 0) : `${share(one.score ?? 0)} · ${share(yes)}`;
  return {
    rect: rectOf(one.box),
    colour: colours.get(name) ?? "#888888",
    style: STYLES[one.outcome ?? "OUTCOME_UNSPECIFIED"],
    // What is there only to be seen beside others has no words over it.
    tag: one.outcome === "OUTCOME_UNSPECIFIED" ? "" : `${name} ${figures}`,
  };
}

/** The outcome of a judgement, as a word with a mark. */
export function OutcomeMark(props: { outcome: Outcome | undefined }) {
  const outcome = props.outcome ?? "OUTCOME_UNSPECIFIED";
  const word = texts.outcomes[outcome];
  return <span class={`outcome ${word.replace(" ", "-")}`}>{word}</span>;
}

/** A class in its colour. */
export function ClassMark(props: { name: string; colours: Map<string, string> }) {
  // Preact sets properties of the style, which the page's policy allows; it forbids the attribute.
  const background = props.colours.get(props.name) ?? "#888888";
  return (
    <span class="class-mark">
      <span class="dot" style={{ background }} aria-hidden="true" />
      <span class="word">{props.name}</span>
    </span>
  );
}

/** The head of a table whose first column is the class, and whose others are figures. */
export function TableHead(props: { words: { readonly [key: string]: string } }) {
  return (
    <thead>
      <tr>
        {Object.entries(props.words).map(([key, word]) => (
          <th key={key} scope="col" class={key === "class" ? "" : "number"}>
            {word}
          </th>
        ))}
      </tr>
    </thead>
  );
}

/** The choices of a list, by their values. */
export function Options(props: { words: { readonly [value: string]: string } }) {
  return (
    <>
      {Object.entries(props.words).map(([value, word]) => (
        <option key={value} value={value}>
          {word}
        </option>
      ))}
    </>
  );
}

/** What an element needs to take files that are dropped on it. */
export function dropped(onFiles: (files: Iterable<File>) => void) {
  return {
    onDragOver: (event: DragEvent) => event.preventDefault(),
    onDrop: (event: DragEvent) => {
      event.preventDefault();
      onFiles(event.dataTransfer?.files ?? []);
    },
  };
}

/** A field that gives chosen images, and is empty again then. */
export function ImageInput(props: { onFiles: (files: Iterable<File>) => void }) {
  return (
    <input
      type="file"
      accept="image/*"
      multiple
      onChange={(event) => {
        props.onFiles(event.currentTarget.files ?? []);
        event.currentTarget.value = "";
      }}
    />
  );
}

/** A text that is meant for elsewhere: a file, or a command line. */
export function Copied({ title, text }: { title: string; text: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
  };
  return (
    <div class="copied">
      <div class="row">
        <h3>{title}</h3>
        <span class="grow" />
        {"clipboard" in navigator && (
          <button type="button" onClick={() => void copy().catch(() => setDone(false))}>
            {done ? texts.copied : texts.copy}
          </button>
        )}
      </div>
      <pre tabIndex={0}>{text}</pre>
    </div>
  );
}

/** What a loading call gave: a value, or why there is none. */
export interface Loaded<T> {
  value: T | null;
  error: string;
  again: () => void;
}

/** The result of `load`, called anew when `depends` change. */
export function useLoad<T>(
  load: (signal: AbortSignal) => Promise<T>,
  depends: readonly unknown[],
): Loaded<T> {
  const [state, set] = useState<{ value: T | null; error: string }>({ value: null, error: "" });
  const [turn, again] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    load(controller.signal)
      .then((value) => !controller.signal.aborted && set({ value, error: "" }))
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        set((was) => ({ ...was, error: messageOf(error) }));
      });
    return () => controller.abort();
  }, [...depends, turn]);
  return { ...state, again: () => again((was) => was + 1) };
}

/** Says what went wrong. */
export function Failure(props: { message: string; again?: () => void }) {
  if (!props.message) return null;
  return (
    <p class="failure" role="alert">
      {props.message}
      {props.again && (
        <button type="button" onClick={props.again}>
          {texts.review.again}
        </button>
      )}
    </p>
  );
}
