// What of a run is shown, and in which order.

import { useEffect, useState } from "preact/hooks";
import type { LabelPath, Outcome, RunImageFilter, RunImageOrder } from "../api/messages";
import { texts } from "../texts";
import { Brush, MEASURES, type Measure } from "./Brush";
import type { Query } from "./list";
import { Options } from "../ui/parts";

const words = texts.browse;
const OUTCOMES: Outcome[] = ["OUTCOME_ACCEPT", "OUTCOME_UNSURE", "OUTCOME_REJECT"];
const TYPING_MS = 250;

interface Props {
  query: Query;
  classes: string[];
  /** Of the run; 0 until that is known. */
  images: number;
  /** Whether the run was decided under a guarantee. */
  guaranteed: boolean;
  onChange: (changed: Partial<Query>) => void;
}

/** A number in [0, 1] from a field; undefined where nothing sensible is in it. */
function bound(text: string): number | undefined {
  const value = Number(text);
  return text !== "" && value >= 0 && value <= 1 ? value : undefined;
}

export function Filters({ query, classes, images, guaranteed, onChange }: Props) {
  const { filter } = query;
  const narrow = (changed: RunImageFilter) => onChange({ filter: { ...filter, ...changed } });
  const [more, setMore] = useState(false);
  const clear = () => onChange({ filter: {} });
  const measured = (measure: Measure) => (
    <Interval
      run={query.run}
      measure={measure}
      images={images}
      filter={filter}
      onChange={narrow}
    />
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
      {measured("probability")}
      <Words word={words.name} value={filter.text} onChange={(text) => narrow({ text })} />
      <label>
        {words.sort}
        <select
          value={query.order}
          onChange={(event) => onChange({ order: event.currentTarget.value as RunImageOrder })}
        >
          <Options words={words.orders} />
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
      <details class="more" onToggle={(event) => setMore(event.currentTarget.open)}>
        <summary>{words.moreFilters}</summary>
        {more && (
          <div class="filters">
            {measured("uncertainty")}
            {measured("area")}
            <More filter={filter} guaranteed={guaranteed} narrow={narrow} />
          </div>
        )}
      </details>
    </div>
  );
}

/** A field for words, which count once nobody types. */
function Words(props: {
  word: string;
  value: string | undefined;
  onChange: (text: string) => void;
}) {
  const { word, value = "", onChange } = props;
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => onChange(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, onChange]); // which knows the other filters
  return (
    <label>
      {word}
      <input
        type="search"
        maxLength={200}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
    </label>
  );
}

/** A choice of all, those that are so, and those that are not. */
function YesNo(props: {
  word: string;
  answers: { readonly yes: string; readonly no: string };
  value: boolean | undefined;
  onChange: (value: boolean | undefined) => void;
}) {
  const { word, answers, value, onChange } = props;
  return (
    <label>
      {word}
      <select
        value={value === undefined ? "" : value ? "yes" : "no"}
        onChange={(event) => {
          const chosen = event.currentTarget.value;
          onChange(chosen ? chosen === "yes" : undefined);
        }}
      >
        <option value="">{words.all}</option>
        <Options words={answers} />
      </select>
    </label>
  );
}

/** A histogram to drag over, and the same limits as fields. */
function Interval(props: {
  run: string;
  measure: Measure;
  images: number;
  filter: RunImageFilter;
  onChange: (changed: RunImageFilter) => void;
}) {
  const { filter, onChange } = props;
  const [least, most] = MEASURES[props.measure];
  const field = (word: string, name: (typeof MEASURES)[Measure][number]) => (
    <label>
      {word}
      <input
        type="number"
        min="0"
        max="1"
        step="any"
        value={filter[name] ?? ""}
        onChange={(event) => onChange({ [name]: bound(event.currentTarget.value) })}
      />
    </label>
  );
  return (
    <>
      <Brush {...props} />
      {field(`${words[props.measure]} ${words.from}`, least)}
      {field(words.to, most)}
    </>
  );
}

/** Seconds since 1970 of what a field for a moment holds, which is local time. */
function moment(text: string): number | undefined {
  const value = new Date(text).getTime() / 1000;
  return Number.isFinite(value) ? value : undefined;
}

/** The same for the field. */
function localTime(seconds: number | undefined): string {
  if (seconds === undefined) return "";
  const at = new Date(seconds * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** Why it was decided so, who labelled, whether somebody reviewed, what is covered, and when. */
function More({
  filter,
  guaranteed,
  narrow,
}: {
  filter: RunImageFilter;
  guaranteed: boolean;
  narrow: (changed: RunImageFilter) => void;
}) {
  const time = (word: string, name: "minDecidedAt" | "maxDecidedAt") => (
    <label>
      {word}
      <input
        type="datetime-local"
        value={localTime(filter[name])}
        onChange={(event) => narrow({ [name]: moment(event.currentTarget.value) })}
      />
    </label>
  );
  return (
    <>
      <Words
        word={words.reasonHas}
        value={filter.reason}
        onChange={(reason) => narrow({ reason })}
      />
      <label>
        {words.path}
        <select
          value={filter.paths?.[0] ?? ""}
          onChange={(event) => {
            const chosen = event.currentTarget.value;
            narrow({ paths: chosen ? [chosen as LabelPath] : [] });
          }}
        >
          <option value="">{words.all}</option>
          <Options words={words.paths} />
        </select>
      </label>
      <YesNo
        word={words.reviewed}
        answers={words.reviewedBy}
        value={filter.reviewed}
        onChange={(reviewed) => narrow({ reviewed })}
      />
      {guaranteed && (
        <YesNo
          word={words.covered}
          answers={words.coveredBy}
          value={filter.guaranteed}
          onChange={(covered) => narrow({ guaranteed: covered })}
        />
      )}
      {time(words.decidedFrom, "minDecidedAt")}
      {time(words.decidedTo, "maxDecidedAt")}
    </>
  );
}
