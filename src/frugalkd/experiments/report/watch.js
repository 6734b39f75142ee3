"use strict";
// The page while results come in: what has changed takes the place of what was there, and the
// reader keeps theirs: where it is scrolled to, what is open, sorted, hidden, zoomed into, focused.
(() => {
  const EVERY = 2000;
  const sections = page => new Map([...page.querySelectorAll("main > section")].map(it => [it.id, it]));
  const sources = new Map([...sections(document)].map(([id, it]) => [id, it.outerHTML]));  // as served

  /** What an element is called in the next page too. */
  function name(element) {
    const within = element.parentElement?.closest("[id]")?.id;
    return [within, element.tagName, element.id || element.getAttribute("aria-label") || element.textContent].join("\n");
  }
  const find = (within, selector, wanted) => [...within.querySelectorAll(selector)].find(it => name(it) === wanted);

  /** What the reader did to a section; returns what does it to the one in its place. */
  function treatment(old) {
    const plots = [...old.querySelectorAll("[data-figure]")];
    const open = [...old.querySelectorAll("details[open]")].map(name);
    const sorted = [...old.querySelectorAll("th[aria-sort$=ending]")].map(it => [name(it), it.getAttribute("aria-sort") === "ascending"]);
    const scrolled = [...old.querySelectorAll(".scroll, pre")].map(it => [name(it), it.scrollLeft, it.scrollTop]);
    return made => {
      // A plot as it is, with its zoom: its new data are drawn into it.
      for (const plot of plots) made.querySelector(`[data-figure="${CSS.escape(plot.dataset.figure)}"]`)?.replaceWith(plot);
      report.equip(made);
      for (const details of made.querySelectorAll("details")) details.open = open.includes(name(details));
      for (const [wanted, up] of sorted) {
        const heading = find(made, "th", wanted);
        if (heading) report.sort(heading, up);
      }
      for (const [wanted, left, top] of scrolled) find(made, ".scroll, pre", wanted)?.scrollTo({ left, top, behavior: "instant" });
    };
  }

  /** Where the reader is; returns what leads there again. */
  function place() {
    const top = it => it.getBoundingClientRect().top;
    const marks = [...document.querySelectorAll("main [id]")].filter(it => it.getClientRects().length);
    const mark = marks.findLast(it => top(it) <= 100), was = mark && top(mark);
    const focus = document.activeElement, wanted = name(focus);
    return () => {
      if (focus !== document.body && focus !== document.activeElement) {
        const found = focus.isConnected ? focus : find(document, focus.tagName, wanted);
        found?.focus({ preventScroll: true });
      }
      const now = mark && document.getElementById(mark.id);
      if (now) scrollBy({ top: top(now) - was, behavior: "instant" });
    };
  }

  /** Puts what has changed into the page; returns whether anything has. */
  function swap(next) {
    const before = sections(document), after = sections(next), main = document.querySelector("main");
    const header = document.querySelector("header"), newHeader = next.querySelector("header");
    const changed = new Set([...before.keys(), ...after.keys()].filter(id => sources.get(id) !== after.get(id)?.outerHTML));
    if (changed.size === 0 && header.innerHTML === newHeader.innerHTML) return false;
    const goBack = place();
    document.documentElement.style.overflowAnchor = "none";  // the browser has a place of its own
    document.title = next.title;
    header.innerHTML = newHeader.innerHTML;
    report.figures = JSON.parse(next.getElementById("figures").textContent);
    let last = null;
    for (const [id, source] of after) {
      let now = before.get(id);
      if (changed.has(id)) {
        const treat = now ? treatment(now) : report.equip;
        sources.set(id, source.outerHTML);
        now?.remove();
        now = document.adoptNode(source);
        main.insertBefore(now, last ? last.nextSibling : main.firstChild);
        treat(now);
      }
      last = now;
    }
    for (const [id, old] of before) if (!after.has(id)) { old.remove(); sources.delete(id); }
    goBack();
    document.documentElement.style.overflowAnchor = "";
    report.redraw();
    return true;
  }

  async function load(path) {
    const answer = await fetch(path, { cache: "no-store" });
    if (!answer.ok) throw new TypeError(`${path}: ${answer.status}`);
    return answer.text();
  }

  let version, lost = false;
  async function refresh() {
    const watching = document.getElementById("watching");
    try {
      const found = await load("/version");
      if (found !== version && swap(new DOMParser().parseFromString(await load("/"), "text/html")) || lost) {
        watching.textContent = `Refreshes by itself; last at ${new Date().toLocaleTimeString()}`;
        report.say("Refreshed");
      }
      version = found;
      lost = false;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      lost = true;
      watching.textContent = "No longer served: this is how the page last was";
      report.say(watching.textContent);
    }
  }

  async function watch() {
    try {
      if (!document.hidden) await refresh();
    } finally {
      setTimeout(watch, EVERY);
    }
  }
  addEventListener("DOMContentLoaded", watch);
})();
