import { effect } from "@preact/signals";
import { render } from "preact";
import { App } from "./app.tsx";
import { resumeSession } from "./store.ts";
import { applyTheme } from "./theme.ts";
import "./style.css";

effect(applyTheme);
resumeSession();
render(<App />, document.getElementById("app")!);
