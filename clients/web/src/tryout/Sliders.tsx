// The thresholds of all classes, or of one.

import { useState } from "preact/hooks";
import { texts } from "../texts";
import { DEFAULTS, type Thresholds } from "./ontology";
import { LOWEST_ASKED } from "./trial";

const words = texts.tryout;

interface Props {
  classes: string[];
  /** By class; of the empty name: for every class that has none of its own. */
  thresholds: ReadonlyMap<string, Thresholds>;
  onChange: (changed: Map<string, Thresholds>) => void;
}

export function Sliders({ classes, thresholds, onChange }: Props) {
  const [name, setName] = useState("");
  const of = classes.includes(name) ? name : "";
  const now = thresholds.get(of) ?? thresholds.get("") ?? DEFAULTS;
  const set = (changed: Partial<Thresholds>) => {
    const next = { ...now, ...changed };
    // What would be rejected cannot be accepted: the other limit gives way.
    if (changed.accept !== undefined) next.reject = Math.min(next.reject, next.accept);
    if (changed.reject !== undefined) next.accept = Math.max(next.accept, next.reject);
    onChange(new Map(thresholds).set(of, next));
  };
  const slider = (key: keyof Thresholds, least: number) => (
    <label class="slider">
      <span>{words[key]}</span>
      <span aria-hidden="true">{now[key].toFixed(2)}</span>
      <input
        type="range"
        min={least}
        max="1"
        step="0.01"
        value={now[key]}
        onInput={(event) => set({ [key]: Number(event.currentTarget.value) })}
      />
    </label>
  );
  return (
    <fieldset>
      <legend>{words.thresholds}</legend>
      <label>
        {texts.browse.class}
        <select value={of} onChange={(event) => setName(event.currentTarget.value)}>
          <option value="">{texts.browse.all}</option>
          {classes.map((one) => (
            <option key={one} value={one}>
              {one}
            </option>
          ))}
        </select>
      </label>
      {slider("threshold", LOWEST_ASKED)}
      {slider("accept", 0)}
      {slider("reject", 0)}
    </fieldset>
  );
}
