// Asks who reviews.

import { useEffect, useRef } from "preact/hooks";
import { texts } from "../texts";

interface Props {
  person: string;
  onChoose: (name: string) => void;
}

export function PersonForm({ person, onChoose }: Props) {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const name = field.current?.value.trim() ?? "";
    if (name) onChoose(name);
  };
  return (
    <form class="page narrow" onSubmit={submit}>
      <h1>{texts.person.label}</h1>
      <p class="quiet">{texts.person.why}</p>
      <label>
        {texts.person.label}
        <input ref={field} type="text" defaultValue={person} required maxLength={120} />
      </label>
      <button type="submit" class="primary">
        {texts.person.begin}
      </button>
    </form>
  );
}
