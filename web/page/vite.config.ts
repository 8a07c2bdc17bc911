import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// No inline script, style or data: URI, because the server's Content-Security-Policy allows only its own files.
export default defineConfig({
  base: "/",
  resolve: { alias: { "ptn-api-client": fileURLToPath(new URL("../client/src/index.ts", import.meta.url)) } },
  build: {
    outDir: "../../ptn_api/page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    license: { fileName: "assets/licenses.md" },
    reportCompressedSize: false,
  },
});
