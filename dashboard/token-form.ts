/** Asks for the token where the daemon refuses to speak without, or with another one. */
import { element } from "./element.ts";

export function openTokenForm(
  layers: HTMLElement,
  wasWrong: boolean,
  use: (token: string) => void,
): void {
  if (layers.querySelector(".token-form") !== null) return;
  const input = element("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: "",
  });
  const why = wasWrong
    ? "The daemon does not know this token: each daemon has its own."
    : "This port is open to all programs of this machine, so the daemon wants to see a token.";
  const form = element(
    "form",
    { method: "dialog" },
    element("h2", {}, wasWrong ? "Token refused" : "Token needed"),
    element("p", { id: "token-why" }, why),
    element(
      "p",
      {},
      "Ask for the whole address, on the daemon's machine: ",
      element("code", {}, "faultline dashboard"),
    ),
    element("p", {}, element("code", {}, "faultline serve"), " prints it after its ready line."),
    element("label", { for: "token" }, "Token"),
    input,
    element("button", { type: "submit", class: "primary" }, "Connect"),
  );
  const dialog = element(
    "dialog",
    { class: "layer token-form", "aria-describedby": "token-why" },
    form,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.remove();
    use(input.value.trim());
  });
  // Without a token there is nothing to see behind it.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  layers.append(dialog);
  dialog.showModal();
  input.focus();
}
