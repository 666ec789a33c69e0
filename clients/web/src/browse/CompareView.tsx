// Two runs over the same images: what only one has, what moved, and what has another class.

import { useEffect, useMemo, useReducer, useState } from "preact/hooks";
import {
  getRun,
  listRuns,
  type ComparedClass,
  type ComparedImage,
  type ComparedLabel,
  type Judgement,
  type LabelChange,
} from "../api/messages";
import { call } from "../api/connect";
import { classColours } from "../canvas/colours";
import { texts } from "../texts";
import { BoxedImage } from "../ui/BoxedImage";
import { step, useKeys } from "../ui/keys";
import { ClassMark, Failure, useLoad } from "../ui/parts";
import { RunComparison } from "./comparison";

const words = texts.compare;
const SAME: LabelChange = "LABEL_CHANGE_NONE";
const COUNTS = ["same", "moved", "classChanged", "lost", "gained"] as const;

/** The address of a comparison. */
export function compareAddress(before: string, after: string): string {
  const [first, second] = [before, after].map(encodeURIComponent);
  return `#/browse/${first}/compare/${second}`;
}

/** A choice of the run to compare with. */
export function CompareChoice({ run }: { run: string }) {
  const runs = useLoad((signal) => call(listRuns, { pageSize: 200 }, signal), []);
  const others = (runs.value?.runs ?? []).filter((one) => one.name !== run);
  if (!others.length) return null;
  return (
    <select
      aria-label={texts.browse.compare}
      value=""
      onChange={(event) => (location.hash = compareAddress(run, event.currentTarget.value))}
    >
      <option value="">
        {texts.browse.compare} {texts.browse.compareChoose}
      </option>
      {others.map((one) => (
        <option key={one.name} value={one.name}>
          {one.name}
        </option>
      ))}
    </select>
  );
}

export function CompareView({ before, after }: { before: string; after: string }) {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [at, setAt] = useState(0);
  const found = useMemo(() => new RunComparison(before, after), [before, after]);
  useEffect(() => {
    found.onChange = () => update(0);
    void found.more();
    setAt(0);
    return () => found.close();
  }, [found]);
  const about = useLoad((signal) => call(getRun, { run: before }, signal), [before]);
  const other = useLoad((signal) => call(getRun, { run: after }, signal), [after]);
  const names = [...(about.value?.run?.classes ?? []), ...(other.value?.run?.classes ?? [])];
  const colours = useMemo(() => classColours(names), [names.join("\u0000")]);
  const image = found.images[at];
  useKeys((key) => {
    const way = step(key);
    if (!way || !found.images.length) return false;
    setAt(Math.min(Math.max(at + way[0] + way[1], 0), found.images.length - 1));
    return true;
  });
  const total = Number(about.value?.run?.images ?? 0);
  return (
    <div class="compare">
      <header class="status">
        <h1>{words.title(before, after)}</h1>
        <span role="status">
          {found.ended ? words.done(found.compared) : words.running(found.compared, total)}
          {words.missing(found.onlyBefore)}
        </span>
        <span class="grow" />
        <a href={`#/browse/${encodeURIComponent(before)}`}>{words.back}</a>
      </header>
      <Failure
        message={found.error || about.error || other.error}
        again={() => void found.more()}
      />
      <div class="compared">
        <section class="panel" aria-label={words.images}>
          <h2>{words.images}</h2>
          {!found.images.length && !found.loading && <p class="quiet">{words.none}</p>}
          <ImageChoice images={found.images} at={at} onChoose={setAt} />
          {!found.ended && (
            <button type="button" disabled={found.loading} onClick={() => void found.more()}>
              {found.loading ? texts.loading : words.more}
            </button>
          )}
          <h2>{words.labels}</h2>
          <Counts classes={found.classes} colours={colours} />
        </section>
        {image && <Sides image={image} runs={[before, after]} colours={colours} />}
      </div>
    </div>
  );
}

function Counts(props: { classes: ComparedClass[]; colours: Map<string, string> }) {
  if (!props.classes.length) return null;
  return (
    <table class="counts">
      <thead>
        <tr>
          <th scope="col">{words.table.class}</th>
          {COUNTS.map((name) => (
            <th key={name} scope="col" class="number">
              {words.table[name]}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {props.classes.map((one) => (
          <tr key={one.className}>
            <td>
              <ClassMark name={one.className ?? ""} colours={props.colours} />
            </td>
            {COUNTS.map((name) => (
              <td key={name} class="number">
                {Number(one[name] ?? 0).toLocaleString("en")}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The images that differ. A hundred or two: what was asked for so far. */
function ImageChoice(props: {
  images: ComparedImage[];
  at: number;
  onChoose: (at: number) => void;
}) {
  return (
    <ul class="choices">
      {props.images.map((image, index) => (
        <li key={image.beforeCursor}>
          <button
            type="button"
            class="row-button"
            aria-pressed={index === props.at}
            onClick={() => props.onChoose(index)}
          >
            <span class="name">{image.name}</span>
            <span class="quiet">{words.differing(differences(image).length)}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

function differences(image: ComparedImage): ComparedLabel[] {
  return (image.labels ?? []).filter((one) => one.change !== SAME);
}

/** The labels of one run. Those that the other has, too, are dotted, as rejected ones elsewhere. */
function labelsOf(image: ComparedImage, side: "before" | "after"): [number, Judgement][] {
  return (image.labels ?? []).flatMap((one, index): [number, Judgement][] => {
    const label = one[side];
    if (!label) return [];
    const same = one.change === SAME;
    return [[index, same ? { ...label, outcome: "OUTCOME_UNSPECIFIED" } : label]];
  });
}

function Sides(props: {
  image: ComparedImage;
  runs: [string, string];
  colours: Map<string, string>;
}) {
  const { image, colours } = props;
  const [chosen, setChosen] = useState(-1);
  useEffect(() => setChosen(-1), [image]);
  const before = useMemo(() => labelsOf(image, "before"), [image]);
  const after = useMemo(() => labelsOf(image, "after"), [image]);
  const side = (index: 0 | 1, judgements: [number, Judgement][], cursor: string | undefined) => (
    <section class="side" aria-label={index ? words.after : words.before}>
      <header class="row">
        <strong class="name">{props.runs[index]}</strong>
        <span class="grow" />
        <a href={`#/browse/${encodeURIComponent(props.runs[index])}/${cursor}`}>{words.open}</a>
      </header>
      <BoxedImage
        source={image.sha256 ?? ""}
        name={image.name ?? ""}
        width={image.width ?? 1}
        height={image.height ?? 1}
        judgements={judgements}
        colours={colours}
        chosen={chosen}
        onChoose={setChosen}
      />
    </section>
  );
  return (
    <div class="sides">
      {side(0, before, image.beforeCursor)}
      {side(1, after, image.afterCursor)}
      <div class="differences">
        <p class="quiet small">{words.legend}</p>
        <table class="judgements">
          <tbody>
            {(image.labels ?? []).map(
              (one, index) =>
                one.change !== SAME && (
                  <tr key={index} aria-selected={index === chosen}>
                    <td>
                      <button
                        type="button"
                        class="row-button"
                        aria-pressed={index === chosen}
                        onClick={() => setChosen(index)}
                      >
                        {words.changes[one.change ?? "LABEL_CHANGE_UNSPECIFIED"]}
                      </button>
                    </td>
                    <td>
                      {one.before && (
                        <ClassMark name={one.before.className ?? ""} colours={colours} />
                      )}
                    </td>
                    <td>
                      {one.after && (
                        <ClassMark name={one.after.className ?? ""} colours={colours} />
                      )}
                    </td>
                  </tr>
                ),
            )}
          </tbody>
        </table>
      </div>
    </div>
  );
}
