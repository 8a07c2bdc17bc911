import { useRef } from "preact/hooks";
import { login, signIn } from "../store.ts";

export function Login() {
  const field = useRef<HTMLInputElement>(null);
  const { error } = login.value;
  return (
    <form
      class="login"
      onSubmit={(event) => {
        event.preventDefault();
        const key = field.current!.value.trim();
        if (key !== "") void signIn(key);
      }}
    >
      <h1>PTN API</h1>
      <p>Positions and orders of a validator of the Proprietary Trading Network, as your key shows them.</p>
      <label for="key">API key</label>
      <input
        id="key"
        ref={field}
        type="password"
        autocomplete="off"
        spellcheck={false}
        required
        autofocus
        aria-invalid={error !== "" ? "true" : undefined}
        aria-describedby={error !== "" ? "key-error" : "key-note"}
      />
      <p id="key-error" class="error" role="alert">
        {error}
      </p>
      <button type="submit" class="button primary">
        Open
      </button>
      <p id="key-note" class="note">
        The key is kept in this browser tab until it is closed, and is sent only to this server, in a header.
      </p>
    </form>
  );
}
