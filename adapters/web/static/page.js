// Keys, the guide, the editor, the theme, and answers that wait for a busy database. No answer is lost while its page is open.
"use strict";
(() => {
  const RETRY_MS = 2000, SLOW_MS = 1200;
  const $ = (selector) => document.querySelector(selector);
  let inFlight = false, retryTimer = 0, slowTimer = 0;

  // --- theme
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    document.cookie = `doujie_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
  });

  // --- editor and guide
  const openEditor = () => {
    const editor = $("#editor"), field = $("#rewrite");
    if (!editor) return;
    editor.hidden = false;
    field.disabled = false;
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  };
  const closeEditor = () => {
    const editor = $("#editor");
    if (!editor) return;
    editor.hidden = true;
    $("#rewrite").blur();  // at once: a disabled field keeps the keys until the page is drawn again, and the next ones would be lost
    $("#rewrite").disabled = true;
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-open-editor]")) openEditor();
    if (event.target.closest("[data-close-editor]")) closeEditor();
    if (event.target.closest("[data-open-guide]")) $("#guide").showModal();
    if (event.target.id === "guide") event.target.close();
  });

  // --- keys
  const letter = (event) => {
    if (/^[a-z?]$/i.test(event.key)) return event.key.toLowerCase();
    const code = /^Key([A-Z])$/.exec(event.code);  // another keyboard layout, or an input method
    return code ? code[1].toLowerCase() : "";
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing || event.keyCode === 229) return;
    if ($("dialog[open]")) {
      if (event.key === "?") $("dialog[open]").close();
      return;
    }
    if (event.target.closest("textarea")) {
      if (event.key === "Escape") closeEditor();
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        $("[data-save]").click();
      }
      return;
    }
    if (event.target.closest("input, select")) return;
    const key = letter(event), button = key && $(`[data-key="${key}"]`);
    if (!button) return;
    event.preventDefault();
    button.click();
  });

  // --- requests: one at a time, sent again while the database or the server is away
  const notice = (text) => {
    const line = $("#notice");
    if (!line) return;
    line.textContent = text;
    line.hidden = !text;
  };
  const isWork = (event) => event.detail.requestConfig && event.detail.requestConfig.verb === "post";
  const waiting = (on) => document.body.classList.toggle("waiting", on);
  const settled = () => {
    inFlight = false;
    clearTimeout(slowTimer);
  };
  const sendAgain = (element, text) => {
    notice(text);
    waiting(true);
    retryTimer = setTimeout(() => {
      retryTimer = 0;
      if (element.requestSubmit) element.requestSubmit(); else element.click();  // the form of the name is submitted
    }, RETRY_MS);
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!isWork(event)) return;
    if (inFlight || retryTimer) {
      event.preventDefault();
      return;
    }
    inFlight = true;
    slowTimer = setTimeout(() => notice($("#notice").dataset.saving), SLOW_MS);
  });
  document.addEventListener("htmx:beforeOnLoad", (event) => {  // also before the server sends us to another page
    if (isWork(event)) settled();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!isWork(event) || event.detail.isError) return;
    notice("");
    waiting(false);
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (!isWork(event)) return;
    if (event.detail.xhr.status === 503) {
      sendAgain(event.detail.elt, event.detail.xhr.responseText);
      return;
    }
    waiting(false);
    notice($("#notice").dataset.refused);
  });
  for (const absence of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(absence, (event) => {
      if (!isWork(event)) return;
      settled();
      sendAgain(event.detail.elt, $("#notice").dataset.offline);
    });
  }
  addEventListener("beforeunload", (event) => {
    if (inFlight || retryTimer) event.preventDefault();  // an answer is still on its way
  });

  // --- the end of the conversation is what stands before the question
  const toEnd = () => document.querySelectorAll("[data-to-end]").forEach((list) => { list.scrollTop = list.scrollHeight; });
  document.addEventListener("htmx:afterSwap", (event) => {
    toEnd();
    if (event.detail.target.id === "work") scrollTo(0, 0);
  });
  toEnd();
})();
