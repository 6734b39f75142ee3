"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const status = document.getElementById("status");
  let clearing;
  function say(text) {
    status.textContent = text;
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
  const cells = row => [...row.cells].map(cell => cell.innerText.trim().replace(/\s+/g, " "));
  const rows = table => [table.tHead.rows[0], ...table.tBodies[0].rows].map(cells);

  function markdown(table) {
    const line = row => `| ${row.map(text => text.replace(/([\\`*_{}[\]<>|])/g, "\\$1")).join(" | ")} |`;
    const [head, ...body] = rows(table);
    const rule = [...table.tHead.rows[0].cells].map(th => th.classList.contains("number") ? "---:" : "---");
    return [line(head), `| ${rule.join(" | ")} |`, ...body.map(line)].join("\n") + "\n";
  }

  function csv(table) {
    const numeric = [...table.tHead.rows[0].cells].map(th => th.classList.contains("number"));
    // A spreadsheet takes text that begins like this for a formula.
    const safe = (text, place) => !numeric[place] && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    return rows(table).map(row => row.map((text, place) => quoted(safe(text, place))).join(",")).join("\r\n") + "\r\n";
  }

  function key(row, place) {
    const cell = row.cells[place];
    return cell.dataset.value === undefined ? cell.innerText : Number(cell.dataset.value);
  }

  function sort(table, place, heading) {
    const up = heading.getAttribute("aria-sort") === "none"
      ? !heading.classList.contains("number")
      : heading.getAttribute("aria-sort") !== "ascending";
    for (const th of table.tHead.rows[0].cells) th.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const compare = (a, b) => typeof a === typeof b
      ? (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }))
      : typeof a === "number" ? -1 : 1;
    const known = [...body.rows].map(row => [key(row, place), row]);
    known.sort(([a], [b]) => typeof a === typeof b ? (up ? 1 : -1) * compare(a, b) : compare(a, b));
    body.append(...known.map(([, row]) => row));
    say(`Sorted by ${heading.innerText.trim()}, ${up ? "ascending" : "descending"}`);
  }

  for (const table of document.querySelectorAll("table[data-tools]")) {
    [...table.tHead.rows[0].cells].forEach((heading, place) => {
      const name = heading.textContent;
      heading.setAttribute("aria-sort", "none");
      heading.replaceChildren(button(name, () => sort(table, place, heading)));
    });
    const tools = document.createElement("div");
    tools.className = "tools";
    tools.append(
      button("Copy as Markdown", () => copy(markdown(table), "Markdown")),
      button("Copy as CSV", () => copy(csv(table), "CSV")),
    );
    table.closest(".table").prepend(tools);
  }
  for (const block of document.querySelectorAll(".code")) {
    const text = block.querySelector("code").textContent;
    const tools = document.createElement("div");
    tools.className = "tools";
    tools.append(button("Copy", () => copy(text, block.querySelector("h3").textContent)));
    block.querySelector("h3").after(tools);
  }

  // Figures: plotly.js lies in the page, compressed; colours are the page's.
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const colour = name => getComputedStyle(root).getPropertyValue(`--${typeof name === "number" ? `c${name}` : name}`).trim();
  const hidden = new Map(places.map(place => [place, new Set(
    figures[place.dataset.figure].data.flatMap((trace, at) => trace.meta.shown ? [] : [at]))]));

  async function unpack() {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), sign => sign.charCodeAt(0));
    packed.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function axis(own, narrow) {
    return {
      gridcolor: colour("grid"), zerolinecolor: colour("line"), linecolor: colour("line"),
      ...own, title: { ...own.title, standoff: 12, font: { size: narrow ? 12 : 13 } }, automargin: true,
    };
  }

  function draw(place) {
    const figure = figures[place.dataset.figure], narrow = place.clientWidth < 600;
    const data = figure.data.map((trace, at) => {
      const own = colour(trace.meta.colour);
      return {
        ...trace,
        visible: !hidden.get(place).has(at),
        marker: { ...trace.marker, color: own, line: { color: colour("raised"), width: trace.type === "bar" ? 0.5 : 1 } },
        line: { ...trace.line, color: own },
        ...(trace.error_x && { error_x: { type: "data", ...trace.error_x, color: own } }),
        ...(trace.error_y && { error_y: { type: "data", ...trace.error_y, color: own } }),
      };
    });
    if (data[0].type === "bar") for (const trace of data) delete trace.line;
    const { xaxis, yaxis, height, ...rest } = figure.layout;
    const layout = {
      ...rest, height: narrow ? Math.min(height, Math.max(300, 0.85 * height)) : height,
      xaxis: axis(xaxis, narrow), yaxis: axis(yaxis, narrow),
      margin: { l: 8, r: 16, t: 16, b: 8 }, showlegend: false, hovermode: "closest", bargap: 0.25,
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
    const list = document.createElement("ul"), off = hidden.get(place);
    list.className = "chips";
    list.setAttribute("aria-label", "Shown in the plot");
    traces.forEach((trace, at) => {
      const name = new DOMParser().parseFromString(trace.name, "text/html").body.textContent;
      const made = button(name, () => {
        if (!off.delete(at)) off.add(at);
        made.setAttribute("aria-pressed", String(!off.has(at)));
        draw(place);
      });
      made.dir = "auto";
      made.style.setProperty("--chip", `var(--${typeof trace.meta.colour === "number" ? `c${trace.meta.colour}` : trace.meta.colour})`);
      made.setAttribute("aria-pressed", String(!off.has(at)));
      const item = document.createElement("li");
      item.append(made);
      list.append(item);
    });
    place.after(list);
  }

  const redraw = () => Promise.all(places.map(draw));
  unpack().then(() => {
    places.forEach(chips);
    return redraw();
  }).then(() => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    root.dataset.drawn = String(places.length);
  });
})();
