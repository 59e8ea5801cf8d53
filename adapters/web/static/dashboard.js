// Replaces the sections that the server says have changed; what the reader had opened stays open.
"use strict";
(() => {
  const live = document.getElementById("live");
  const tell = (state, text) => {
    live.className = `live ${state}`;
    live.textContent = text;
  };
  const replace = (section, html) => {
    const open = new Set([...section.querySelectorAll("details[open]")].map((details) => details.dataset.id));
    const known = new Set([...section.querySelectorAll("li[data-id]")].map((item) => item.dataset.id));
    section.innerHTML = html;
    section.querySelectorAll("details").forEach((details) => { details.open = open.has(details.dataset.id); });
    if (known.size) section.querySelectorAll("li[data-id]").forEach((item) => item.classList.toggle("fresh", !known.has(item.dataset.id)));
  };
  const stream = new EventSource(live.dataset.stream);
  document.querySelectorAll("main section[id]").forEach((section) => {
    stream.addEventListener(section.id, (event) => {
      const html = JSON.parse(event.data);
      if (section.innerHTML !== html) replace(section, html);
    });
  });
  stream.addEventListener("open", () => tell("on", live.dataset.live));
  stream.addEventListener("error", () => tell("off", stream.readyState === EventSource.CLOSED ? live.dataset.refused : live.dataset.lost));
})();
