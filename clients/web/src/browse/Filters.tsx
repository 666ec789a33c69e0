// What of a run is shown, and in which order.

import { useEffect, useState } from "preact/hooks";
import type { Outcome, RunImageFilter, RunImageOrder } from "../api/messages";
import { texts } from "../texts";
import { Brush } from "./Brush";
import type { Query } from "./list";

const words = texts.browse;
const OUTCOMES: Outcome[] = ["OUTCOME_ACCEPT", "OUTCOME_UNSURE", "OUTCOME_REJECT"];
const TYPING_MS = 250;

interface Props {
  query: Query;
  classes: string[];
  /** Of the run; 0 until that is known. */
  images: number;
  onChange: (changed: Partial<Query>) => void;
}

/** A number in [0, 1] from a field; undefined where nothing sensible is in it. */
function bound(text: string): number | undefined {
  const value = Number(text);
  return text !== "" && value >= 0 && value <= 1 ? value : undefined;
}

export function Filters({ query, classes, images, onChange }: Props) {
  const { filter } = query;
  const narrow = (changed: RunImageFilter) => onChange({ filter: { ...filter, ...changed } });
  const [text, setText] = useState(filter.text ?? "");
  useEffect(() => {
    if (text === (filter.text ?? "")) return;
    const timer = setTimeout(() => narrow({ text }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  const clear = () => {
    setText("");
    onChange({ filter: {} });
  };
  const figure = (word: string, name: "minProbability" | "maxProbability") => (
    <label>
      {word}
      <input
        type="number"
        min="0"
        max="1"
        step="0.05"
        value={filter[name] ?? ""}
        onChange={(event) => narrow({ [name]: bound(event.currentTarget.value) })}
      />
    </label>
  );
  return (
    <div class="filters" role="group" aria-label={words.filters}>
      <label>
        {words.class}
        <select
          value={filter.classes?.[0] ?? ""}
          onChange={(event) => {
            const chosen = event.currentTarget.value;
            narrow({ classes: chosen ? [chosen] : [] });
          }}
        >
          <option value="">{words.all}</option>
          {classes.map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <label>
        {words.outcome}
        <select
          value={filter.empty ? "empty" : (filter.outcomes?.[0] ?? "")}
          onChange={(event) => {
            const chosen = event.currentTarget.value;
            const empty = chosen === "empty";
            narrow({ empty, outcomes: chosen && !empty ? [chosen as Outcome] : [] });
          }}
        >
          <option value="">{words.all}</option>
          {OUTCOMES.map((one) => (
            <option key={one} value={one}>
              {texts.outcomes[one]}
            </option>
          ))}
          <option value="empty">{words.empty}</option>
        </select>
      </label>
      <Brush run={query.run} images={images} filter={filter} onChange={narrow} />
      {figure(`${words.probability} ${words.from}`, "minProbability")}
      {figure(words.to, "maxProbability")}
      <label>
        {words.name}
        <input
          type="search"
          maxLength={200}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <label>
        {words.sort}
        <select
          value={query.order}
          onChange={(event) => onChange({ order: event.currentTarget.value as RunImageOrder })}
        >
          {Object.entries(words.orders).map(([value, word]) => (
            <option key={value} value={value}>
              {word}
            </option>
          ))}
        </select>
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={query.reverse}
          onChange={(event) => onChange({ reverse: event.currentTarget.checked })}
        />
        {words.reverse}
      </label>
      <button type="button" onClick={clear}>
        {words.clear}
      </button>
    </div>
  );
}
