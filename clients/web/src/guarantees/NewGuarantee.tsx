// Begins a guarantee of a run: what is promised, of which classes, by how many answers.

import { useState } from "preact/hooks";
import { call } from "../api/connect";
import { createGuarantee, getRun, type GuaranteePromise } from "../api/messages";
import { texts } from "../texts";
import { Failure, Options, useLoad } from "../ui/parts";
import { RunChoice, useRunNames } from "../ui/RunChoice";
import { NAME_PATTERN, useSubmit } from "../ui/submit";

const words = texts.guarantees.make;

/** A field with a number. */
function NumberField(props: { name: string; word: string; value: number; max: number }) {
  const { name, word, value, max } = props;
  const share = max < 1;
  return (
    <label>
      {word}
      <input
        name={name}
        type="number"
        required
        min={share ? 0.5 : 1}
        max={max}
        step={share ? "any" : 1}
        defaultValue={String(value)}
      />
    </label>
  );
}

export function NewGuarantee({ onMade }: { onMade: (name: string) => void }) {
  const [run, setRun] = useState("");
  const names = useRunNames();
  const about = useLoad(async (signal) => (run ? call(getRun, { run }, signal) : null), [run]);
  const known = about.value?.run?.classes ?? [];
  const { submit, busy, failure } = useSubmit(async (field) => {
    const classes = field("classes");
    const { guarantee } = await call(createGuarantee, {
      name: field("name"),
      run: field("run"),
      precision: Number(field("precision")),
      confidence: Number(field("confidence")),
      budget: Number(field("budget")),
      promise: field("promise") as GuaranteePromise,
      classes: classes === "each" ? known : classes === "" ? [] : [known[Number(classes)] ?? ""],
    });
      onMade(guarantee?.name ?? "");
  });
  if (!names.length) return null;
  return (
    <form class="new-queue" aria-labelledby="make-title" onSubmit={submit}>
      <h2 id="make-title">{words.title}</h2>
      <p class="quiet">{words.intro}</p>
      <Failure message={failure} />
      <RunChoice names={names} onChoose={setRun} />
      <NumberField name="precision" word={words.precision} value={0.95} max={0.9999} />
      <NumberField name="confidence" word={words.confidence} value={0.95} max={0.9999} />
      <label>
        {words.classes}
        <select name="classes">
          <option value="">{words.together}</option>
          <option value="each">{words.each}</option>
          {known.map((name, at) => (
            <option key={name} value={at}>
              {words.only(name)}
            </option>
          ))}
        </select>
      </label>
      <label>
        {words.promise}
        <select name="promise">
          <Options words={words.promises} />
        </select>
      </label>
      <NumberField name="budget" word={words.budget} value={200} max={10_000} />
      <label>
        {words.name}
        <input name="name" type="text" maxLength={200} pattern={NAME_PATTERN} />
      </label>
      <button type="submit" class="primary" disabled={busy}>
        {words.create}
      </button>
    </form>
  );
}
