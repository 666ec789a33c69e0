// What was tried, as a file of classes and as the command line that uses it.

import type { RefObject } from "preact";
import { texts } from "../texts";
import { Copied } from "../ui/parts";

const words = texts.tryout;

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
