"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const status = document.getElementById("status");
  let clearing;
  function say(text) {
    if (status.textContent !== text) status.textContent = text;
    clearTimeout(clearing);
    clearing = setTimeout(() => { status.textContent = ""; }, 3000);
  }

  function button(label, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.addEventListener("click", act);
    return made;
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a page that is not from a secure place
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say(`${what} copied`);
  }

  // Tables: sorted by their headings, copied as Markdown and CSV.
  const rows = table => [table.tHead.rows[0], ...table.tBodies[0].rows].map(row => [...row.cells]);
  const said = cell => cell.innerText.trim().replace(/\s+/g, " ");

  function markdown(table) {
    const line = row => `| ${row.map(cell => said(cell).replace(/([\\`*_{}[\]<>|])/g, "\\$1")).join(" | ")} |`;
    const [head, ...body] = rows(table);
    const rule = head.map(th => th.classList.contains("number") ? "---:" : "---");
    return [line(head), `| ${rule.join(" | ")} |`, ...body.map(line)].join("\n") + "\n";
  }

  function csvOf(lines) {
    const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    return lines.map(line => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  function csv(table) {
    // A spreadsheet takes text that begins like this for a formula.
    const safe = cell => (cell.dataset.value === undefined && /^[=+\-@\t\r]/.test(said(cell)) ? "'" : "") + said(cell);
    return csvOf(rows(table).map(row => row.map(safe)));
  }

  function key(row, place) {
    const cell = row.cells[place];
    return cell.dataset.value === undefined ? cell.innerText : Number(cell.dataset.value);
  }

  function sort(heading, up) {
    const table = heading.closest("table"), place = heading.cellIndex;
    for (const th of table.tHead.rows[0].cells) th.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const compare = (a, b) => typeof a === typeof b
      ? (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }))
      : typeof a === "number" ? -1 : 1;
    const known = [...body.rows].map(row => [key(row, place), row]);
    known.sort(([a], [b]) => typeof a === typeof b ? (up ? 1 : -1) * compare(a, b) : compare(a, b));
    body.append(...known.map(([, row]) => row));
  }

  function sortNext(heading) {
    const up = heading.getAttribute("aria-sort") === "none"
      ? !heading.classList.contains("number")
      : heading.getAttribute("aria-sort") !== "ascending";
    sort(heading, up);
    say(`Sorted by ${heading.innerText.trim()}, ${up ? "ascending" : "descending"}`);
  }

  function addTools(within) {
    for (const table of within.querySelectorAll("table[data-tools]")) {
      for (const heading of table.tHead.rows[0].cells) {
        const name = heading.textContent;
        heading.setAttribute("aria-sort", "none");
        heading.replaceChildren(button(name, () => sortNext(heading)));
      }
      const tools = document.createElement("div");
      tools.className = "tools";
      tools.append(
        button("Copy as Markdown", () => copy(markdown(table), "Markdown")),
        button("Copy as CSV", () => copy(csv(table), "CSV")),
      );
      table.closest(".table").prepend(tools);
    }
    for (const block of within.querySelectorAll(".code")) {
      const text = block.querySelector("code").textContent;
      const tools = document.createElement("div");
      tools.className = "tools";
      tools.append(button("Copy", () => copy(text, block.querySelector("h3").textContent)));
      block.querySelector("h3").after(tools);
    }
  }

  // Labels to review: one suspect is the current one, and has the controls.
  const decided = new Map();  // by sample: [decision, label]
  const NAMES = { keep: "keep", exclude: "leave out", relabel: "relabel" };

  function decide(suspect, decision, label = "") {
    if (decision === "relabel" && !label) return say("No class is suggested: choose one");
    decided.set(suspect.dataset.id, [decision, label]);
    show(suspect);
    say(`Sample ${suspect.dataset.id}: ${suspect.querySelector(".decision").textContent}`);
  }

  function show(suspect) {
    const [decision, label] = decided.get(suspect.dataset.id) ?? [];
    const note = suspect.querySelector(".decision");
    note.textContent = decision ? NAMES[decision] + (label && `: ${label}`) : "";
    suspect.dataset.decision = decision ?? "";
    const review = suspect.closest(".review");
    const count = [...review.querySelectorAll(".suspect")].filter(it => decided.has(it.dataset.id)).length;
    review.querySelector(".count").textContent = `${count} decided`;
  }

  function decisions(review) {
    const lines = [["id", "given", "suggested", "decision", "label", "data"]];
    for (const { dataset: it } of review.querySelectorAll(".suspect")) {
      if (decided.has(it.id)) lines.push([it.id, it.given, it.suggested, ...decided.get(it.id), review.dataset.data]);
    }
    return csvOf(lines);
  }

  function download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${name} saved`);
  }

  function makeReview(review) {
    const suspects = [...review.querySelectorAll(".suspect")];
    let current = suspects[0];
    const classes = document.createElement("select");
    classes.setAttribute("aria-label", "Relabel to another class");
    for (const name of ["Another class …", ...JSON.parse(review.dataset.classes)]) classes.add(new Option(name));
    classes.addEventListener("change", () => {
      if (classes.selectedIndex) decide(current, "relabel", classes.value);
    });
    const acts = {
      k: ["Keep (K)", () => decide(current, "keep")],
      x: ["Leave out (X)", () => decide(current, "exclude")],
      r: ["Relabel (R)", () => decide(current, "relabel", current.dataset.suggested)],
    };
    const panel = document.createElement("div");
    panel.className = "panel";
    panel.append(...Object.values(acts).map(([label, act]) => button(label, act)), classes);
    const enter = suspect => {
      if (suspect === current && suspect.contains(panel)) return;
      current.tabIndex = -1;
      current = suspect;
      current.tabIndex = 0;
      classes.selectedIndex = 0;
      current.append(panel);
    };
    const move = (event, place) => {
      event.preventDefault();
      suspects[Math.min(Math.max(place, 0), suspects.length - 1)].focus();
    };
    for (const [place, suspect] of suspects.entries()) {
      const note = document.createElement("p");
      note.className = "decision";
      suspect.append(note);
      suspect.tabIndex = -1;
      suspect.addEventListener("focusin", () => enter(suspect));
      suspect.addEventListener("click", event => { if (!panel.contains(event.target)) suspect.focus(); });
      suspect.addEventListener("keydown", event => {
        if (event.ctrlKey || event.metaKey || event.altKey || event.target === classes) return;
        if (["ArrowRight", "ArrowDown"].includes(event.key)) return move(event, place + 1);
        if (["ArrowLeft", "ArrowUp"].includes(event.key)) return move(event, place - 1);
        if (event.key === "Home") return move(event, 0);
        if (event.key === "End") return move(event, suspects.length - 1);
        acts[event.key.toLowerCase()]?.[1]();
      });
    }
    const tools = document.createElement("div"), count = document.createElement("span");
    tools.className = "tools";
    count.className = "count";
    tools.append(
      button("Save decisions.csv", () => download(decisions(review), "decisions.csv")),
      button("Copy decisions as CSV", () => copy(decisions(review), "Decisions")),
      count,
    );
    const how = document.createElement("p");
    how.className = "note";
    how.textContent = "Arrow keys move from sample to sample; K keeps its label, X leaves the sample out, R gives it the suggested class. Decisions stay in this page: save them, and run “frugalkd ledger audit RUN --fix decisions.csv --to DIR”.";
    review.prepend(how, tools);
    if (suspects.length) enter(current);
    suspects.forEach(show);
  }

  // Figures: plotly.js lies in the page, compressed; colours are the page's.
  let figures = JSON.parse(document.getElementById("figures").textContent);
  const places = within => [...within.querySelectorAll("[data-figure]")];
  const colour = name => getComputedStyle(root).getPropertyValue(`--${typeof name === "number" ? `c${name}` : name}`).trim();
  const chosen = new Map();  // by figure and line: whether the reader wants to see it
  const line = (place, trace) => `${place.dataset.figure}\n${trace.name}`;
  const isShown = (place, trace) => chosen.get(line(place, trace)) ?? trace.meta.shown;

  async function unpack() {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), sign => sign.charCodeAt(0));
    packed.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function axis({ narrow: names, ...own }, narrow) {
    if (narrow && names) own.ticktext = names;
    return {
      gridcolor: colour("grid"), zerolinecolor: colour("line"), linecolor: colour("line"),
      ...own, title: { ...own.title, standoff: 12, font: { size: narrow ? 12 : 13 } }, automargin: true,
    };
  }

  async function draw(place) {
    await unpacked;
    const figure = figures[place.dataset.figure], narrow = place.clientWidth < 600;
    if (!figure) return;  // the page has been refreshed meanwhile
    const data = figure.data.map(trace => {
      const own = colour(trace.meta.colour);
      return {
        type: "scatter", ...trace,
        visible: isShown(place, trace),
        marker: { opacity: 1, ...trace.marker, color: own, line: { color: colour("raised"), width: trace.type === "bar" ? 0.5 : 1 } },
        line: { ...trace.line, color: own },
        ...(trace.textposition?.map && { textfont: { color: own }, cliponaxis: false }),
        ...(narrow && { mode: trace.mode?.replace("+text", "") }),  // there is no room for names
        ...(trace.error_x && { error_x: { type: "data", thickness: 1, width: 3, ...trace.error_x, color: own } }),
        ...(trace.error_y && { error_y: { type: "data", thickness: 1.5, width: 4, ...trace.error_y, color: own } }),
      };
    });
    if (data[0].type === "bar") for (const trace of data) delete trace.line;
    const { xaxis, yaxis, height, ...rest } = figure.layout;
    const layout = {
      ...rest, height: narrow ? Math.min(height, Math.max(300, 0.85 * height)) : height,
      xaxis: axis(xaxis, narrow), yaxis: { ...axis(yaxis, narrow), ticks: "outside", ticklen: 5, tickcolor: "rgba(0, 0, 0, 0)" },
      margin: { l: 8, r: 16, t: 16, b: 8 }, showlegend: false, uirevision: "the reader's", hovermode: "closest", bargap: 0.25,
      paper_bgcolor: colour("raised"), plot_bgcolor: colour("raised"),
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, color: colour("ink") },
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("line"), font: { color: colour("ink") } },
    };
    const config = {
      displaylogo: false, responsive: true, displayModeBar: narrow ? false : "hover", scrollZoom: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: place.dataset.figure },
    };
    return Plotly.react(place, data, layout, config);
  }

  /** The names of a figure's lines as buttons that show and hide them: a legend for the keyboard. */
  function chips(place) {
    const traces = figures[place.dataset.figure].data;
    if (traces.length < 2) return;
    const list = document.createElement("ul");
    list.className = "chips";
    list.setAttribute("aria-label", "Shown in the plot");
    traces.forEach(trace => {
      const name = new DOMParser().parseFromString(trace.name, "text/html").body.textContent;
      const made = button(name, () => {
        chosen.set(line(place, trace), !isShown(place, trace));
        made.setAttribute("aria-pressed", String(isShown(place, trace)));
        draw(place);
      });
      made.dir = "auto";
      made.dataset.mark = trace.marker?.symbol ?? (trace.line?.dash === "dot" ? "dotted" : "");
      made.style.setProperty("--chip", `var(--${typeof trace.meta.colour === "number" ? `c${trace.meta.colour}` : trace.meta.colour})`);
      made.setAttribute("aria-pressed", String(isShown(place, trace)));
      const item = document.createElement("li");
      item.append(made);
      list.append(item);
    });
    place.after(list);
  }

  function equip(within) {
    addTools(within);
    within.querySelectorAll(".review").forEach(makeReview);
    places(within).forEach(chips);
  }

  async function redraw() {
    await Promise.all(places(document).map(draw));
    root.dataset.drawn = String(places(document).length);
  }

  const unpacked = unpack();
  equip(document);
  redraw().then(() => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw));

  // For a page that is watched (watch.js).
  window.report = { say, sort, equip, redraw, set figures(next) { figures = next; } };
})();
