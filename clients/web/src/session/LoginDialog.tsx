// Asks for a token, before everything else, as long as the server wants one.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { texts } from "../texts";
import { Failure } from "../ui/parts";
import { login, useSession } from "./session";
import { tokenWanted } from "./token";

const words = texts.login;

export function LoginDialog() {
  useSession();
  const why = tokenWanted();
  return why === null ? null : <Asking why={why} />;
}

function Asking({ why }: { why: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const [failure, setFailure] = useState(why);
  const [busy, setBusy] = useState(false);
  useLayoutEffect(() => {
    const open = () => {
      if (!dialog.current?.isConnected) return;
      if (!dialog.current.open) dialog.current.showModal();
      field.current?.focus();
    };
    open();
    // Escape closes a dialog at the second time, whatever is done about the first.
    dialog.current?.addEventListener("close", open);
  }, []);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    setFailure(await login(field.current?.value ?? ""));
    setBusy(false);
  };
  return (
    <dialog
      ref={dialog}
      class="login"
      aria-labelledby="login-title"
      onCancel={(event) => event.preventDefault()}
    >
      <form onSubmit={(event) => void submit(event)}>
        <h2 id="login-title">{words.title}</h2>
        <p class="quiet">{words.why}</p>
        <Failure message={failure} />
        <label>
          {words.token}
          <input
            ref={field}
            type="password"
            autocomplete="off"
            spellcheck={false}
            required
            maxLength={250}
            placeholder="slt_…"
          />
        </label>
        <button type="submit" class="primary" disabled={busy}>
          {words.enter}
        </button>
      </form>
    </dialog>
  );
}
