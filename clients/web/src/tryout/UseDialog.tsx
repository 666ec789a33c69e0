// What was tried, as a file of classes and as the command line that uses it.

import type { RefObject } from "preact";
import { useState } from "preact/hooks";
import { texts } from "../texts";

const words = texts.tryout;

function Copied({ title, text }: { title: string; text: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
  };
  return (
    <div>
      <div class="row">
        <h3>{title}</h3>
        <span class="grow" />
        {"clipboard" in navigator && (
          <button type="button" onClick={() => void copy().catch(() => setDone(false))}>
            {done ? words.copied : words.copy}
          </button>
        )}
      </div>
      <pre tabIndex={0}>{text}</pre>
    </div>
  );
}

export function UseDialog({
  hold,
  yaml,
}: {
  hold: RefObject<HTMLDialogElement | null>;
  yaml: string;
}) {
  return (
    <dialog ref={hold} aria-labelledby="use-title" class="use">
      <h2 id="use-title">{words.useTitle}</h2>
      <Copied key={yaml} title={words.yaml} text={yaml} />
      <Copied title={words.command} text={words.commandLine} />
      <form method="dialog" class="row">
        <button class="primary">{texts.close}</button>
      </form>
    </dialog>
  );
}
