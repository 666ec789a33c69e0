// What the forms share that ask the server for something new.

import { useState } from "preact/hooks";
import { messageOf } from "../api/connect";

/** Names that the server takes, as an input's pattern. */
export const NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._\\-]*";

/**
 * Does what a form asks for, by its fields: busy meanwhile, and the failure is what `act` throws.
 */
export function useSubmit(act: (field: (name: string) => string) => Promise<void>) {
  const [failure, setFailure] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    setFailure("");
    const form = new FormData(event.currentTarget as HTMLFormElement);
    act((name) => String(form.get(name) ?? ""))
      .catch((error: unknown) => setFailure(messageOf(error)))
      .finally(() => setBusy(false));
  };
  return { submit, busy, failure };
}
