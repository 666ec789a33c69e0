// The keys of the page, and a switch for those of one letter.

import type { RefObject } from "preact";
import { useState } from "preact/hooks";
import { texts } from "../texts";
import { keysOn, switchKeys } from "./keys";

function KeyTable({
  title,
  rows,
}: {
  title: string;
  rows: readonly (readonly [string, string])[];
}) {
  return (
    <div>
      <h3>{title}</h3>
      <dl class="keys">
        {rows.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

export function KeysDialog({ hold }: { hold: RefObject<HTMLDialogElement | null> }) {
  const [on, setOn] = useState(keysOn);
  const choose = (wanted: boolean) => {
    switchKeys(wanted);
    setOn(wanted);
  };
  return (
    <dialog ref={hold} aria-labelledby="keys-title">
      <h2 id="keys-title">{texts.keys.title}</h2>
      <div class="columns">
        <KeyTable title={texts.keys.review} rows={texts.keys.list.review} />
        <KeyTable title={texts.keys.browse} rows={texts.keys.list.browse} />
      </div>
      <label class="check">
        <input
          type="checkbox"
          checked={on}
          onChange={(event) => choose(event.currentTarget.checked)}
        />
        {texts.keys.single}
      </label>
      <form method="dialog" class="row">
        <button class="primary">{texts.close}</button>
      </form>
    </dialog>
  );
}
