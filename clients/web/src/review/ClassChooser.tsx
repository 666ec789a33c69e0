// A list of classes to choose from by keys: type to narrow it, a number or Enter takes one.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { texts } from "../texts";
import { ClassMark, Key } from "../ui/parts";

interface Props {
  title: string;
  classes: string[];
  colours: Map<string, string>;
  /** Offer to say nothing of the class. */
  unsaid: boolean;
  onChoose: (name: string) => void;
  onCancel: () => void;
}

export function ClassChooser(props: Props) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const field = useRef<HTMLInputElement>(null);
  // Before the next key comes, not after the next frame.
  useLayoutEffect(() => field.current?.focus(), []);
  const found = props.classes.filter((name) => name.toLowerCase().includes(text.toLowerCase()));
  const choices = props.unsaid ? [...found, ""] : found;
  const place = Math.min(at, Math.max(choices.length - 1, 0));

  const down = (event: KeyboardEvent) => {
    const number = text === "" ? Number(event.key) : NaN;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") props.onCancel();
    else if (event.key === "Enter" && choices.length) props.onChoose(choices[place] ?? "");
    else if (step) setAt((place + step + choices.length) % choices.length);
    else if (number >= 1 && number <= Math.min(choices.length, 9)) {
      props.onChoose(choices[number - 1] ?? "");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };

  return (
    <div class="chooser" role="dialog" aria-label={props.title} onKeyDown={down}>
      <h3>{props.title}</h3>
      <input
        ref={field}
        type="text"
        role="combobox"
        aria-expanded="true"
        aria-controls="class-choices"
        aria-activedescendant={choices.length ? `class-choice-${place}` : undefined}
        aria-label={texts.review.filterClasses}
        placeholder={texts.review.filterClasses}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setAt(0);
        }}
      />
      <ul id="class-choices" role="listbox" aria-label={props.title}>
        {choices.map((name, index) => (
          <li
            key={name || "\u0000"}
            id={`class-choice-${index}`}
            role="option"
            aria-selected={index === place}
            onClick={() => props.onChoose(name)}
          >
            {index < 9 && text === "" && <Key>{index + 1}</Key>}
            {name ? (
              <ClassMark name={name} colours={props.colours} />
            ) : (
              <span class="quiet">{texts.review.unsaid}</span>
            )}
          </li>
        ))}
      </ul>
      <div class="row">
        <button type="button" onClick={props.onCancel}>
          {texts.cancel} <Key>Esc</Key>
        </button>
      </div>
    </div>
  );
}
