import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { HealthStrip } from "./parts/health.tsx";
import { parseRoute, linkTo, VIEWS, type View } from "./pure/route.ts";
import { login, session, signOut } from "./store.ts";
import { switchTheme, theme } from "./theme.ts";
import { Eliminations } from "./views/eliminations.tsx";
import { Leaderboard } from "./views/leaderboard.tsx";
import { Login } from "./views/login.tsx";
import { MinerView } from "./views/miner.tsx";
import { Pairs } from "./views/pairs.tsx";
import { Orders } from "./views/tape.tsx";

const route = signal(parseRoute(location.hash));
addEventListener("hashchange", () => (route.value = parseRoute(location.hash)));

const TITLES: Record<View, string> = {
  miners: "Leaderboard",
  orders: "Orders",
  pairs: "Pairs",
  eliminations: "Eliminations",
};

export function App() {
  const help = useRef<HTMLDialogElement>(null);
  const { view, item } = route.value;
  const signedIn = session.value !== null;

  useEffect(() => {
    document.title = (item ?? TITLES[view]) + " · PTN API";
  }, [view, item]);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.key === "Escape" && target.tagName === "INPUT") target.blur();
      if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(target.tagName)) return;
      if (session.peek() === null) return;
      const place = Number(event.key) - 1;
      if (VIEWS[place] !== undefined) location.hash = linkTo(VIEWS[place]);
      else if (event.key === "/") {
        event.preventDefault();
        document.querySelector<HTMLInputElement>("[data-search]")?.focus();
      } else if (event.key === "t") switchTheme();
      else if (event.key === "?") help.current?.showModal();
      else if (event.key === "Escape" && route.peek().item !== null) location.hash = linkTo(route.peek().view);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to content
      </a>
      <header class="top">
        <a class="brand" href={linkTo("miners")}>
          <svg viewBox="0 0 20 20" aria-hidden="true">
            <polyline points="2,15 7,9 11,12 18,4" />
          </svg>
          PTN
        </a>
        {signedIn && (
          <nav aria-label="Views">
            {VIEWS.map((name) => (
              <a key={name} href={linkTo(name)} aria-current={view === name ? "page" : undefined}>
                {TITLES[name]}
              </a>
            ))}
          </nav>
        )}
        <div class="tools">
          <button
            type="button"
            class="icon"
            onClick={switchTheme}
            aria-label={theme.value === "dark" ? "Use the light theme" : "Use the dark theme"}
            title="Theme (t)"
          >
            <svg viewBox="0 0 20 20" aria-hidden="true">
              <circle cx="10" cy="10" r="6.5" />
              <path d="M10 3.5a6.5 6.5 0 0 1 0 13z" class="solid" />
            </svg>
          </button>
          {signedIn && (
            <>
              <button
                type="button"
                class="icon keys"
                onClick={() => help.current?.showModal()}
                aria-label="Keyboard shortcuts"
                title="Keyboard shortcuts (?)"
              >
                <span aria-hidden="true">?</span>
              </button>
              <span class="who" title={`Key of ${session.value!.alias}`}>
                tier {session.value!.tier}
              </span>
              <button type="button" class="button" onClick={() => signOut()}>
                Sign out
              </button>
            </>
          )}
        </div>
      </header>
      {signedIn && <HealthStrip />}
      <main id="main" tabIndex={-1} class={signedIn && item === null ? "fixed" : ""}>
        {!signedIn ? (
          login.value.busy ? (
            <p class="empty">Loading…</p>
          ) : (
            <Login />
          )
        ) : view === "orders" ? (
          <Orders />
        ) : view === "pairs" ? (
          <Pairs pair={item} />
        ) : view === "eliminations" ? (
          <Eliminations />
        ) : item !== null ? (
          <MinerView hotkey={item} />
        ) : (
          <Leaderboard />
        )}
      </main>
      <dialog ref={help} aria-labelledby="help-title">
        <h2 id="help-title">Keyboard</h2>
        <dl>
          {[
            ["1 – 4", "Leaderboard, orders, pairs, eliminations"],
            ["/", "Search"],
            ["↑ ↓", "Move in a table; also Page Up, Page Down, Home, End"],
            ["Enter", "Open the row"],
            ["Esc", "Back to the list"],
            ["t", "Dark or light"],
            ["?", "This help"],
          ].map(([keys, meaning]) => (
            <div key={keys}>
              <dt>
                <kbd>{keys}</kbd>
              </dt>
              <dd>{meaning}</dd>
            </div>
          ))}
        </dl>
        <form method="dialog">
          <button class="button">Close</button>
        </form>
      </dialog>
    </>
  );
}
