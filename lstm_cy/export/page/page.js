/* The page. Behind the text of network.js, in the same module: it makes the elements of #page from the JSON of #data. */
(async () => {
  const SVG = "http://www.w3.org/2000/svg";
  const FIELDS = ["forget", "input", "candidate", "cell", "output", "hidden"];
  const GATES = ["forget", "input", "output"];
  const COLOURS = ["cell", "forget", "input", "output", "hidden", "contribution", "gradient"];
  const POSITIVE = "#d1691e";
  const NEGATIVE = "#3f83c8";
  const WINDOW = 100; // steps that a chart shows
  const WRITTEN = 60; // tokens of a continuation

  const data = JSON.parse(document.getElementById("data").textContent);
  const say = (key, values = {}) => data.words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const network = data.model && (await Network.create(data.model, { wasm: data.wasm && bytesOf(data.wasm).buffer }));
  const H = data.units;
  const stored = storedArrays();

  // What is shown: a reading of a text, and the step, the unit, the span and the gates of it that are looked at.
  const view = {
    unit: data.salient[0],
    colour: "cell",
    pinned: false,
    span: null,
    shown: FIELDS.length,
    order: null, // the column of the table of units, and whether its largest come first
  };

  // ---- numbers

  function bytesOf(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  function floatsOf(text) {
    return new Float32Array(bytesOf(text).buffer);
  }

  function storedArrays() {
    return data.arrays && Object.fromEntries(FIELDS.map((name) => [name, floatsOf(data.arrays[name])]));
  }

  /** Return what the model, or the trace, computed on a text: arrays of (steps, units), and the outputs of each step. */
  function reading(tokens, texts, own) {
    const initial = floatsOf(data.initial);
    if (!network) return { tokens, texts, own, initial, arrays: stored, outputs: null };
    network.layers.forEach((layer) => layer.release());
    network.reset();
    const { outputs, layers } = network.run(tokens);
    return { tokens, texts, own, initial, arrays: layers[data.layer], outputs };
  }

  function widthOf(name) {
    return view.arrays[name].length / (view.texts.length || 1);
  }

  function at(name, t, unit = view.unit) {
    const width = widthOf(name);
    return unit < width ? view.arrays[name][t * width + unit] : NaN;
  }

  /** The cell of a unit before step t, in the order of reading. */
  function before(t, unit = view.unit) {
    const direction = data.reverse ? 1 : -1;
    if (isReset(t)) return 0;
    for (let s = t + direction; s >= 0 && s < view.texts.length; s += direction)
      if (isRead(s)) return at("cell", s, unit);
    return view.initial[unit];
  }

  const isRead = (t) => Number.isFinite(view.arrays.cell[t * H]);
  const isReset = (t) => data.reset.includes(t) && !view.own;

  /** The share of the old cell that step t keeps; a step that was not read keeps all of it. */
  function kept(t, unit) {
    if (isReset(t)) return 0;
    return isRead(t) ? data.zoneout + (1 - data.zoneout) * at("forget", t, unit) : 1;
  }

  function written(t, unit) {
    return isRead(t) ? (1 - data.zoneout) * at("input", t, unit) * at("candidate", t, unit) : 0;
  }

  /** Return [what is left of the initial cell, [[step, what is left of what it added], ...] from step t backwards]. */
  function contributions(t, unit = view.unit) {
    const direction = data.reverse ? 1 : -1;
    const parts = [];
    let share = 1;
    for (let s = t; s >= 0 && s < view.texts.length; s += direction) {
      parts.push([s, share * written(s, unit)]);
      share *= kept(s, unit);
    }
    return [share * view.initial[unit], parts];
  }

  /** Return the last step after which half of what step t added is still in the cell. */
  function keptUntil(t, unit = view.unit) {
    const direction = data.reverse ? -1 : 1;
    let share = 1;
    let s = t + direction;
    for (; s >= 0 && s < view.texts.length; s += direction) {
      share *= kept(s, unit);
      if (!(Math.abs(share) >= 0.5)) return s - direction;
    }
    return s - direction;
  }

  /** Return whether step t added enough to be followed: a hundredth of the unit's largest cell. */
  function isAdded(t, unit = view.unit) {
    const cells = view.texts.map((_, s) => Math.abs(at("cell", s, unit))).filter(Number.isFinite);
    return Math.abs(written(t, unit)) > 0.01 * Math.max(...cells, 0);
  }

  /** Return the norms of the stored gradient of the prediction at step t, [[step, norm], ...], or null. */
  function gradientAt(t) {
    if (!data.gradients || view.own) return null;
    const { reach } = data.gradients;
    return Array.from({ length: Math.min(reach, t + 1) }, (_, d) => [t - d, gradients[t * reach + d]]);
  }
  const gradients = data.gradients && floatsOf(data.gradients.norms);

  /** Return the units that are on for exactly the steps first to last, the clearest first; as GateTrace.span_units. */
  function unitsOfSpan(first, last) {
    const T = view.texts.length;
    const found = [];
    for (let unit = 0; unit < H; unit++) {
      const values = Array.from({ length: T }, (_, t) => at("cell", t, unit));
      const mean = values.reduce((sum, value) => sum + value, 0) / T;
      const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / T);
      for (const sign of [1, -1]) {
        const inside = values.slice(first, last + 1).map((value) => sign * value);
        const outside = [first - 1, last + 1].filter((t) => t >= 0 && t < T).map((t) => sign * values[t]);
        const low = Math.min(...inside);
        const high = Math.max(...outside);
        if (!Number.isFinite(low) || !(low > high)) continue;
        const margin = Number.isFinite(high) && spread ? (low - high) / spread : 0;
        found.push({ unit, sign, threshold: sign * (Number.isFinite(high) ? (low + high) / 2 : low), margin });
      }
    }
    return found.sort((one, other) => other.margin - one.margin);
  }

  /** Return the other spans in which a unit is on, those of about the same length first; as GateTrace.match. */
  function matches({ unit, sign, threshold }, first, last) {
    const T = view.texts.length;
    const found = [];
    let begin = -1;
    for (let t = 0; t <= T; t++) {
      const on = t < T && sign * at("cell", t, unit) > sign * threshold;
      if (on && begin < 0) begin = t;
      if (!on && begin >= 0) {
        if (begin !== first || t - 1 !== last) found.push([begin, t - 1]);
        begin = -1;
      }
    }
    const apart = ([from, to]) => Math.abs(to - from - (last - first));
    return found.sort((one, other) => apart(one) - apart(other) || one[0] - other[0]).slice(0, 20);
  }

  /** Return the most probable outputs after step t, and the one that follows: [[output, probability, rank], ...]. */
  function predictions(t) {
    if (!view.outputs)
      return data.predictions && data.predictions[t].map(([k, odds, rank], row) => [k, odds, rank ?? row + 1]);
    const scores = view.outputs.subarray(t * network.outputs, (t + 1) * network.outputs);
    const odds = softmax(scores);
    return [...odds.keys()]
      .sort((one, other) => odds[other] - odds[one] || one - other)
      .map((k, row) => [k, odds[k], row + 1])
      .filter(([k, , rank]) => rank <= 5 || k === following(t));
  }

  /** Return the output that is the text's token after step t, if the outputs are the model's tokens. */
  function following(t) {
    return network && network.outputs !== data.model.tokens ? undefined : view.tokens?.[t + 1];
  }

  /** Return the most probable tokens after step t: `change` sets what it likes before that step is computed. */
  function continuation(t, change) {
    network.layers.forEach((layer) => layer.release());
    network.reset();
    for (let s = 0; s < t; s++) network.step(view.tokens[s]);
    change(network.layers[data.layer]);
    let outputs = network.step(view.tokens[t]);
    const tokens = [];
    while (tokens.length < WRITTEN) {
      tokens.push(outputs.reduce((best, value, k) => (value > outputs[best] ? k : best), 0));
      outputs = network.step(tokens.at(-1));
    }
    network.layers.forEach((layer) => layer.release());
    return tokens.map((token) => data.symbols[token]).join("");
  }

  /** Cut a text into the model's symbols, the longest first; what it does not know is left out. */
  function tokensOf(text) {
    const numbers = new Map(data.symbols.map((symbol, index) => [symbol, index]));
    const longest = Math.max(...data.symbols.map((symbol) => symbol.length));
    const tokens = [];
    const unknown = new Set();
    for (let place = 0; place < text.length;) {
      let size = Math.min(longest, text.length - place);
      while (size > 0 && !numbers.has(text.slice(place, place + size))) size--;
      if (size) tokens.push(numbers.get(text.slice(place, place + size)));
      else unknown.add(String.fromCodePoint(text.codePointAt(place)));
      place += size || String.fromCodePoint(text.codePointAt(place)).length;
    }
    return { tokens, unknown: [...unknown] };
  }

  // ---- elements

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes))
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key === "value" || key === "checked") made[key] = value;
      else made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function svg(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function section(id, heading, ...children) {
    return element(
      "section",
      { id, "aria-labelledby": `${id}-heading` },
      element("h2", { id: `${id}-heading` }, heading),
      ...children,
    );
  }

  function fill(id, ...children) {
    const target = document.getElementById(id);
    target.replaceChildren(...children);
    target.querySelectorAll(".scroll").forEach((box) => (box.scrollLeft = box.scrollWidth)); // to the latest steps
  }

  /** A number with three digits after the point; a small or a large one with two or three digits that count. */
  function shownNumber(value) {
    const size = Math.abs(value);
    if (!Number.isFinite(value)) return "—";
    if (!size) return "0";
    const text =
      size >= 1000
        ? value.toExponential(2)
        : size < 1e-4
          ? value.toExponential(1)
          : size < 0.01
            ? value.toPrecision(2)
            : value.toFixed(3);
    return text.replaceAll("-", "−");
  }

  /** A number with so many digits after the point, if they do not hide it. */
  const signed = (value, digits) =>
    Number(value.toFixed(digits)) ? value.toFixed(digits).replace("-", "−") : shownNumber(value);
  const percent = (value, digits = Math.abs(value) < 0.1 ? 1 : 0) =>
    Number.isFinite(value) ? `${signed(100 * value, digits)}\u00a0%` : "—";
  const visible = (text) => ({ "\n": "↵\n", "\t": "⇥\t", "\r": "␍" })[text] ?? text;
  const named = (text) => ({ "\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣" })[text] ?? text;
  const spanText = (first, last) =>
    view.texts.slice(first, last + 1).join((data.symbols?.every((symbol) => symbol.length === 1) ?? true) ? "" : " ");

  /** A share, or a number that is compared with `most`, as the colour of an element of the text. */
  function paint(target, value, most = null) {
    target.style.setProperty("--colour", `var(--${most === null ? "share" : value < 0 ? "negative" : "positive"})`);
    target.style.setProperty("--depth", Number.isFinite(value) ? (0.75 * Math.abs(value)) / (most || 1) : 0);
  }

  /** A bar on a line at height `zero`; `scale` is the height of one. */
  function bar(x, width, value, zero, scale, label) {
    const height = Math.abs(value) * scale;
    const attributes = { x, width, height, y: value < 0 ? zero : zero - height, fill: value < 0 ? NEGATIVE : POSITIVE };
    return svg("rect", attributes, svg("title", {}, label));
  }

  /** Bars of [[step, value], ...] over the steps, with the texts below, and the numbers of the scale by their side. */
  function bars(parts, label) {
    const width = 644;
    const height = 110;
    const side = 76;
    const shown = parts.slice(0, WINDOW).sort((one, other) => one[0] - other[0]);
    const each = Math.min(width / Math.max(shown.length, 1), 40);
    const highest = Math.max(...shown.map(([, value]) => value), 0);
    const lowest = Math.min(...shown.map(([, value]) => value), 0);
    const scale = (height - 12) / (highest - lowest || 1);
    const zero = 6 + highest * scale;
    const ends = [0, highest, lowest].filter((end, index) => !index || Math.abs(end) * scale > 14);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height + 16}`, role: "img", "aria-label": label });
    chart.append(svg("line", { class: "axis", x1: 0, x2: width, y1: zero, y2: zero }));
    const numbers = svg("svg", { viewBox: `0 0 ${side} ${height + 16}`, class: "scale" });
    for (const end of ends) {
      const y = zero - end * scale;
      numbers.append(
        svg("line", { class: "axis", x1: side - 5, x2: side, y1: y, y2: y }),
        svg("text", { x: side - 8, y: y + 4, "text-anchor": "end", "data-value": end }, shownNumber(end)),
      );
    }
    shown.forEach(([s, value], index) => {
      chart.append(
        bar(
          index * each,
          Math.max(each - 1, 0.5),
          value,
          zero,
          scale,
          `${say("option", { step: s, text: named(view.texts[s]) })}: ${shownNumber(value)}`,
        ),
      );
      if (each >= 6)
        chart.append(
          svg("text", { x: (index + 0.5) * each, y: height + 12, "text-anchor": "middle" }, named(view.texts[s])),
        );
    });
    return element("div", { class: "scroll" }, element("div", { class: "bars" }, numbers, chart));
  }

  // ---- what the page shows

  function build() {
    document
      .getElementById("page")
      .replaceChildren(
        element("h1", {}, data.title),
        element("p", {}, say("lead")),
        element(
          "p",
          { class: "quiet", id: "engine" },
          network
            ? say("running", { engine: network.engine === "wasm" ? "WebAssembly" : "JavaScript" })
            : say("fixed", { reason: data.reason }),
        ),
        section(
          "reading",
          say("text"),
          element(
            "div",
            { class: "annotated" },
            element(
              "div",
              {},
              ...(typing() ? [typed()] : []),
              element("div", { class: "controls" }, unitChoice(), colourChoice()),
              element("div", { class: "controls quiet", id: "legend" }),
              element(
                "div",
                { class: "controls" },
                element("span", { class: "quiet" }, say("salient")),
                element("ul", { class: "plain", id: "salient" }),
              ),
              element("div", {
                id: "text",
                role: "listbox",
                tabindex: 0,
                "aria-multiselectable": "true",
                "aria-label": say("text"),
                onkeydown: onKey,
              }),
              element("p", { id: "purpose" }),
            ),
          ),
        ),
        element(
          "div",
          { class: "columns" },
          section("step", ""),
          section("predictions", say("predictions"), element("div", { id: "odds", class: "lines" })),
        ),
        element(
          "div",
          { class: "columns" },
          section("memory", ""),
          section("gradient", say("gradient"), element("div", { id: "norms" })),
        ),
        ...(data.explanation ? [explanation()] : []),
        section(
          "units",
          say("units"),
          element("p", { class: "quiet" }, say("units_lead")),
          element("div", { id: "chart", class: "scroll" }),
          element("button", { type: "button", id: "save", onclick: save }, say("save")),
        ),
        element(
          "div",
          { class: "columns" },
          section("span", say("span"), element("div", { id: "found" })),
          ...(typing() ? [experiment()] : []),
        ),
        ...(data.checkpoints.length ? [training()] : []),
        ...(Object.keys(data.compare).length ? [comparison()] : []),
        element("p", { id: "announcement", class: "quiet", "aria-live": "polite" }),
      );
    data.notes.forEach(addNote);
    fill(
      "salient",
      ...data.salient.map((unit) =>
        element(
          "li",
          {},
          element("button", { type: "button", "data-unit": unit, onclick: () => choose({ unit }) }, String(unit)),
        ),
      ),
    );
  }

  const typing = () => network && data.symbols;

  /** Put a note into its view: by the side of the text, elsewhere below the heading. */
  function addNote(note) {
    const target = document.getElementById(note.view);
    if (!target) return;
    const { title, text, view: _, ...state } = note;
    const made = element("div", { class: "note" }, element("h3", {}, title), element("p", {}, text));
    const show = () => {
      if (view.own && "step" in state) readStored();
      choose({ ...state, ...("step" in state ? { pinned: true, span: null } : {}) });
      if ("step" in state) reveal(state.step);
    };
    if (Object.keys(state).length)
      made.append(element("button", { type: "button", onclick: show, "aria-label": `${say("show")}: ${title}` }, say("show")));
    if (note.view !== "reading") return target.querySelector("h2").after(made);
    const annotated = target.querySelector(".annotated");
    if (annotated.children.length === 1)
      annotated.append(element("div", { class: "notes", role: "group", "aria-label": say("notes"), tabindex: 0 }));
    annotated.lastChild.append(made);
  }

  /** What a unit follows, as a table that can be sorted by each column. */
  function explanation() {
    const columns = ["unit", "feature", "signal", "auc", "change", "loss"].filter(
      (name) => data.explanation.loss !== null || !["change", "loss"].includes(name),
    );
    view.order = { column: data.explanation.loss === null ? "auc" : "change", descending: true };
    const sort = (column) => {
      const { order } = view;
      view.order = { column, descending: order.column === column ? !order.descending : isNumber(column) };
      showExplanation();
      document.getElementById(`by-${column}`).focus();
    };
    const heads = columns.map((name) =>
      element(
        "th",
        { scope: "col", id: `column-${name}`, ...(isNumber(name) ? { class: "number" } : {}) },
        element("button", { type: "button", id: `by-${name}`, onclick: () => sort(name) }, say(`column_${name}`)),
      ),
    );
    const { loss, tokens, loss_tokens: counted } = data.explanation;
    const lead = loss === null ? "" : ` ${say("explanation_loss", { loss: shownNumber(loss), tokens: counted })}`;
    queueMicrotask(showExplanation);
    return section(
      "explanation",
      say("explanation"),
      element("p", { class: "quiet" }, say("explanation_lead", { tokens }) + lead),
      element(
        "div",
        { class: "tall", role: "region", "aria-labelledby": "explanation-heading", tabindex: 0 },
        element(
          "table",
          { id: "explained" },
          element("thead", {}, element("tr", {}, ...heads)),
          element("tbody", { onclick: (event) => onRow(event.target.closest("tr")) }),
        ),
      ),
    );
  }

  const isNumber = (column) => !["feature", "signal"].includes(column);
  const onRow = (row) => row && choose({ unit: Number(row.dataset.unit) });
  const featureName = (name) => data.words.features?.[name] ?? name;
  const signalName = ({ signal, sign }) => say(`${signal}_${sign > 0 ? "high" : "low"}`);

  function showExplanation() {
    const { column, descending } = view.order;
    const valueOf = (one) =>
      column === "feature" ? featureName(one.feature) : column === "signal" ? signalName(one) : one[column];
    const compare = (one, other) => {
      const [a, b] = [valueOf(one), valueOf(other)];
      if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last
      return (isNumber(column) ? a - b : a.localeCompare(b)) * (descending ? -1 : 1);
    };
    const rows = [...data.explanation.units].sort((one, other) => compare(one, other) || one.unit - other.unit);
    document.querySelectorAll("#explained thead th").forEach((head) => {
      const own = head.id === `column-${column}`;
      head.setAttribute("aria-sort", own ? (descending ? "descending" : "ascending") : "none");
    });
    const number = (value, digits) => element("td", { class: "number" }, value === null ? "—" : signed(value, digits));
    document.querySelector("#explained tbody").replaceChildren(
      ...rows.map((one) =>
        element(
          "tr",
          { "data-unit": one.unit },
          element("th", { scope: "row", class: "number" }, element("button", { type: "button" }, String(one.unit))),
          element("td", {}, featureName(one.feature)),
          element("td", {}, signalName(one)),
          number(one.auc, 3),
          ...(data.explanation.loss === null ? [] : [number(one.change, 4), number(one.loss, 4)]),
        ),
      ),
    );
    markRow();
  }

  /** Mark the row of the unit that is looked at. */
  function markRow() {
    document.querySelectorAll("#explained tbody tr").forEach((row) => {
      const own = Number(row.dataset.unit) === view.unit;
      row.classList.toggle("now", own);
      row.querySelector("button").setAttribute("aria-pressed", own);
    });
  }

  function showPurpose() {
    const one = data.explanation?.units[view.unit];
    if (!one) return;
    const values = { unit: view.unit, feature: featureName(one.feature), auc: signed(one.auc, 3), signal: signalName(one) };
    const loss = one.change === null ? "" : ` ${say("purpose_loss", { change: signed(one.change, 4) })}`;
    fill("purpose", say("purpose", values) + loss);
    markRow();
  }

  function typed() {
    const area = element("textarea", {
      id: "typed",
      spellcheck: "false",
      oninput: () => read(tokensOf(area.value), true),
    });
    const back = element("button", { type: "button", id: "original", onclick: () => readStored() }, say("original"));
    return element(
      "div",
      {},
      element("label", { for: "typed" }, say("type")),
      area,
      element("div", { class: "controls" }, back, element("span", { id: "unknown", class: "quiet", role: "status" })),
    );
  }

  function unitChoice() {
    const input = element("input", {
      type: "number",
      id: "unit",
      min: 0,
      max: H - 1,
      oninput: () => input.value !== "" && input.validity.valid && choose({ unit: Number(input.value) }),
    });
    return element("label", {}, `${say("unit")} `, input);
  }

  function colourChoice() {
    const names = COLOURS.filter((name) => name !== "gradient" || data.gradients);
    const select = element(
      "select",
      { id: "colour", onchange: () => choose({ colour: select.value }) },
      ...names.map((name) => element("option", { value: name }, say(`colour_${name}`))),
    );
    return element("label", {}, `${say("colour")} `, select);
  }

  /** What the colours of the text are, from the lowest to the highest number; and the line below what is kept. */
  function showLegend(most) {
    const gradient = view.colour === "gradient";
    const signs = most !== null && !gradient;
    const box = element("i", { class: signs ? "both" : "one" }, signs ? "0" : "");
    if (gradient) box.style.setProperty("--high", "var(--positive)");
    const ends =
      most === null
        ? [say("closed"), say("open")]
        : gradient
          ? ["0", shownNumber(most)]
          : [say("below", { least: shownNumber(-most) }), say("above", { most: shownNumber(most) })];
    const line = () => element("i", { class: "kept" });
    const kept = isAdded(view.step) && keptUntil(view.step) !== view.step;
    fill(
      "legend",
      element("span", { class: "legend", id: "scale" }, ends[0], box, ends[1]),
      ...(kept ? [element("span", { class: "legend" }, line(), say("legend_kept", { step: view.step }))] : []),
    );
  }

  function read({ tokens, unknown = [] }, own) {
    fill("unknown", unknown.length ? say("unknown", { symbols: unknown.map(named).join(" ") }) : "");
    if (tokens.length > data.most) tokens = tokens.slice(0, data.most);
    show(
      reading(
        tokens,
        tokens.map((token) => data.symbols[token]),
        own,
      ),
    );
  }

  function readStored() {
    const area = document.getElementById("typed");
    if (area) area.value = data.texts.join("");
    if (area) fill("unknown", "");
    show(reading(data.tokens, data.texts, false));
  }

  function show(read) {
    const T = read.texts.length;
    Object.assign(view, read, { step: Math.max(T - 1, 0), pinned: false, span: null });
    fill(
      "text",
      ...read.texts.map((text, t) =>
        element(
          "span",
          {
            role: "option",
            id: `at${t}`,
            "aria-selected": "false",
            "aria-label": say("option", { step: t, text: named(text) }),
            onpointerenter: (event) => onPoint(t, event),
            onpointerdown: (event) => onPress(t, event),
          },
          visible(text),
        ),
      ),
    );
    update();
  }

  function choose(changes) {
    Object.assign(view, changes);
    update();
  }

  function onPoint(t, event) {
    if (event.buttons & 1 && view.from !== undefined)
      choose({ step: t, pinned: true, span: [Math.min(view.from, t), Math.max(view.from, t)] });
    else if (!view.pinned) choose({ step: t });
  }

  function onPress(t, event) {
    event.preventDefault();
    document.getElementById("text").focus();
    if (event.shiftKey) choose({ step: t, pinned: true, span: [Math.min(view.step, t), Math.max(view.step, t)] });
    else choose({ step: t, pinned: !(view.pinned && view.step === t), span: null, from: t });
  }

  function onKey(event) {
    const T = view.texts.length;
    const moves = { ArrowLeft: view.step - 1, ArrowRight: view.step + 1, Home: 0, End: T - 1 };
    if (event.key === "Escape") choose({ pinned: false, span: null });
    if (!(event.key in moves) || !T) return;
    event.preventDefault();
    const step = Math.min(Math.max(moves[event.key], 0), T - 1);
    const from = event.shiftKey ? (view.span ? view.from : view.step) : step;
    choose({ step, pinned: true, from, span: event.shiftKey ? [Math.min(from, step), Math.max(from, step)] : null });
    reveal(step);
  }

  /** Scroll the box of the text, and nothing else, to a step. */
  function reveal(step) {
    const box = document.getElementById("text");
    const [{ top, bottom }, own] = [box.getBoundingClientRect(), document.getElementById(`at${step}`).getBoundingClientRect()];
    if (own.top < top) box.scrollTop -= top - own.top + 8;
    if (own.bottom > bottom) box.scrollTop += own.bottom - bottom + 8;
  }

  function update() {
    document.getElementById("unit").value = view.unit;
    document.getElementById("colour").value = view.colour;
    document
      .querySelectorAll("#salient button")
      .forEach((button) => button.setAttribute("aria-pressed", Number(button.dataset.unit) === view.unit));
    for (const id of ["step", "odds", "memory", "norms", "chart", "found", "legend"]) if (!view.texts.length) fill(id);
    if (typing()) fill("after");
    if (!view.texts.length) return;
    showPurpose();
    showText();
    showStep();
    showPredictions();
    showMemory();
    showGradient();
    showUnits();
    showSpan();
  }

  function showText() {
    const T = view.texts.length;
    const values = coloursOf();
    const compared = !GATES.includes(view.colour);
    const until = isAdded(view.step) ? keptUntil(view.step) : view.step;
    const [firstKept, lastKept] = [Math.min(view.step, until), Math.max(view.step, until)];
    const most = compared ? Math.max(...values.filter(Number.isFinite).map(Math.abs), 0) : null;
    for (let t = 0; t < T; t++) {
      const target = document.getElementById(`at${t}`);
      paint(target, values[t], most);
      target.dataset.value = values[t];
      target.classList.toggle("current", t === view.step);
      target.classList.toggle("kept", until !== view.step && t >= firstKept && t <= lastKept);
      target.setAttribute("aria-selected", view.span !== null && t >= view.span[0] && t <= view.span[1]);
    }
    document.getElementById("text").setAttribute("aria-activedescendant", `at${view.step}`);
    showLegend(most);
  }

  /** Return the number of each step by which the text is coloured. */
  function coloursOf() {
    const T = view.texts.length;
    if (!["contribution", "gradient"].includes(view.colour))
      return Array.from({ length: T }, (_, t) => at(view.colour, t));
    const values = new Array(T).fill(0);
    const parts = view.colour === "gradient" ? (gradientAt(view.step) ?? []) : contributions(view.step)[1];
    for (const [s, value] of parts) values[s] = value;
    return values;
  }

  function showStep() {
    const t = view.step;
    const value = Object.fromEntries(FIELDS.map((name) => [name, at(name, t)]));
    const how = {
      forget: say("how_forget", { share: percent(value.forget) }),
      input: say("how_input", { share: percent(value.input) }),
      candidate: say("how_candidate"),
      output: say("how_output", { share: percent(value.output) }),
      cell: say("how_cell", {
        f: shownNumber(value.forget),
        old: shownNumber(before(t)),
        i: shownNumber(value.input),
        g: shownNumber(value.candidate),
      }),
      hidden:
        widthOf("hidden") === H
          ? say("how_hidden", { o: shownNumber(value.output), tanh: shownNumber(Math.tanh(value.cell)) })
          : say("how_hidden_projected"),
    };
    const rows = FIELDS.map((name, index) =>
      element(
        "tr",
        { class: index >= view.shown ? "later" : index === view.shown - 1 && view.shown < FIELDS.length ? "now" : "" },
        element("th", { scope: "row" }, say(name)),
        element("td", {}, index < view.shown ? how[name] : ""),
        element("td", { class: "number", id: `value-${name}`, "data-value": value[name] }, shownNumber(value[name])),
      ),
    );
    const button = (id, shown, disabled) =>
      element(
        "button",
        {
          type: "button",
          id,
          onclick: () => (choose({ shown }), document.getElementById(id).focus()),
          ...(disabled ? { "aria-disabled": "true" } : {}),
        },
        say(id),
      );
    fill(
      "step",
      element("h2", { id: "step-heading" }, say("step", { step: t, text: named(view.texts[t]), unit: view.unit })),
      element(
        "table",
        {},
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "col" }, say("quantity")),
            element("th", { scope: "col" }, say("how")),
            element("th", { scope: "col" }, say("value")),
          ),
        ),
        element("tbody", {}, ...rows),
      ),
      element(
        "div",
        { class: "controls" },
        button("back", Math.max(view.shown - 1, 1), view.shown === 1),
        button("next", (view.shown % FIELDS.length) + 1, false),
        button("all", FIELDS.length, false),
      ),
    );
    const spoken = view.shown < FIELDS.length ? FIELDS[view.shown - 1] : "cell";
    fill(
      "announcement",
      `${say("step", { step: t, text: named(view.texts[t]), unit: view.unit })}: ${say(spoken)} ${shownNumber(value[spoken])}`,
    );
  }

  function showPredictions() {
    const found = predictions(view.step);
    if (!found) return fill("odds", element("p", { class: "quiet" }, say("no_predictions")));
    const follows = following(view.step);
    const mark = (rank) => element("span", {}, `← ${rank > 5 ? say("follows_rank", { rank }) : say("follows")}`);
    const rows = found.map(([k, probability, rank]) =>
      element(
        "tr",
        { "data-output": k, "data-rank": rank, ...(k === follows ? { class: "now" } : {}) },
        element("th", { scope: "row" }, named(data.symbols?.[k] ?? String(k))),
        element("td", { class: "number", "data-value": probability }, percent(probability, 1)),
        element("td", {}, oddsBar(probability), ...(k === follows ? [mark(rank)] : [])),
      ),
    );
    const first = Math.max(view.step - 15, 0);
    const text = (first ? "…" : "") + [...spanText(first, view.step)].map(named).join("");
    fill(
      "odds",
      element("p", { class: "quiet" }, say("predictions_lead", { step: view.step, text })),
      element("table", {}, element("tbody", {}, ...rows)),
    );
  }

  function oddsBar(probability) {
    const bar = element("i", { class: "odds" });
    bar.style.setProperty("width", `${100 * probability}%`);
    return bar;
  }

  function showMemory() {
    const t = view.step;
    const [initial, parts] = contributions(t);
    const sum = parts.reduce((total, [, value]) => total + value, initial);
    const until = keptUntil(t);
    fill(
      "memory",
      element("h2", { id: "memory-heading" }, say("memory", { unit: view.unit })),
      element(
        "p",
        { class: "quiet", id: "sum", "data-value": sum, "data-initial": initial },
        say("memory_lead", { sum: shownNumber(sum), initial: shownNumber(initial) }),
      ),
      bars(parts, say("memory", { unit: view.unit })),
      element("p", { id: "largest" }, largestOf(parts)),
      element(
        "p",
        { id: "until", "data-value": until, "data-written": written(t, view.unit) },
        keptWords(t, until),
      ),
    );
    document.getElementById("memory").dataset.parts = JSON.stringify(parts);
  }

  /** What step t added, and how long half of it stays. */
  function keptWords(t, until) {
    const steps = Math.abs(until - t);
    const end = data.reverse ? 0 : view.texts.length - 1;
    const kind = !isAdded(t) ? "nothing" : until === end ? "all" : steps > 1 ? "long" : steps ? "one" : "short";
    const values = { written: shownNumber(written(t, view.unit)), until, text: named(view.texts[until]), steps };
    return say(`kept_${kind}`, values);
  }

  /** The largest of [[step, value], ...], with what is next to them in the text. */
  function largestOf(parts) {
    const largest = [...parts].sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])).slice(0, 3);
    const near = (s) => [...spanText(Math.max(s - 4, 0), Math.min(s + 4, view.texts.length - 1))].map(named).join("");
    const words = ([s, value]) =>
      say("part", { step: s, text: named(view.texts[s]), near: near(s), value: shownNumber(value) });
    const kind = parts.length > WINDOW ? "largest_of_more" : "largest";
    return say(kind, { list: largest.map(words).join("; "), shown: WINDOW, count: parts.length });
  }

  function showGradient() {
    const parts = gradientAt(view.step);
    if (!parts) return fill("norms", element("p", { class: "quiet" }, say("gradient_none")));
    const [[output]] = predictions(view.step);
    const of = say("gradient_of", { step: view.step, text: named(data.symbols?.[output] ?? String(output)) });
    fill(
      "norms",
      element("p", {}, of),
      element("p", { class: "quiet" }, say("gradient_lead")),
      bars(parts, say("gradient")),
      element("p", {}, largestOf(parts)),
    );
    document.getElementById("gradient").dataset.parts = JSON.stringify(parts);
  }

  /** The cells of some units around the step, as rows of coloured fields. */
  function heatMap(units, T, valueOf, first, last, texts, step = null) {
    const width = 1100;
    const high = 22;
    const side = 52;
    const each = Math.min((width - side) / (last - first + 1), 30);
    const chart = svg("svg", {
      viewBox: `0 0 ${width} ${units.length * high + 20}`,
      xmlns: SVG,
      role: "img",
      "aria-label": say("units"),
    });
    units.forEach((unit, row) => {
      let most = 0;
      for (let t = 0; t < T; t++) most = Math.max(most, Math.abs(valueOf(t, unit)) || 0);
      const line = svg("g", { "data-unit": unit });
      line.append(svg("text", { x: 0, y: (row + 0.7) * high, "font-size": 12 }, String(unit)));
      for (let t = first; t <= last; t++) {
        const value = valueOf(t, unit);
        const attributes = {
          x: side + (t - first) * each,
          y: row * high,
          width: each,
          height: high - 2,
          fill: value < 0 ? NEGATIVE : POSITIVE,
          class: value < 0 ? "below" : "above",
          "fill-opacity": Number.isFinite(value) ? Math.abs(value) / (most || 1) : 0,
        };
        line.append(svg("rect", attributes, svg("title", {}, `${unit}, ${t}: ${shownNumber(value)}`)));
      }
      chart.append(line);
    });
    if (texts && each >= 6)
      for (let t = first; t <= last; t++)
        chart.append(
          svg(
            "text",
            {
              x: side + (t - first + 0.5) * each,
              y: units.length * high + 13,
              "text-anchor": "middle",
              "font-size": 11,
            },
            named(texts[t]),
          ),
        );
    if (step !== null)
      chart.append(
        svg("rect", {
          x: side + (step - first) * each,
          y: 0,
          width: each,
          height: units.length * high - 2,
          fill: "none",
          stroke: "#1a1a1a",
          "stroke-width": 2.5,
          class: "chosen",
        }),
      );
    return chart;
  }

  function showUnits() {
    const T = view.texts.length;
    const first = Math.max(Math.min(view.step - WINDOW / 2, T - WINDOW), 0);
    const last = Math.min(first + WINDOW, T) - 1;
    const units = data.salient.includes(view.unit) ? data.salient : [view.unit, ...data.salient];
    const chart = heatMap(units, T, (t, unit) => at("cell", t, unit), first, last, view.texts, view.step);
    chart.addEventListener("click", (event) => {
      const row = event.target.closest("g[data-unit]");
      if (row) choose({ unit: Number(row.dataset.unit) });
    });
    fill("chart", chart);
  }

  function save() {
    const chart = document.querySelector("#chart svg").cloneNode(true);
    chart.querySelectorAll("text").forEach((text) => text.setAttribute("font-family", "sans-serif"));
    const [, , width, height] = chart.getAttribute("viewBox").split(" ");
    chart.prepend(svg("rect", { width, height, fill: "#ffffff" }));
    const link = element("a", {
      href: URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(chart)], { type: "image/svg+xml" })),
      download: "lstm-units.svg",
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function showSpan() {
    if (!view.span) return fill("found", element("p", { class: "quiet" }, say("span_none")));
    const [first, last] = view.span;
    const text = [...spanText(first, last)].map(named).join("");
    const units = unitsOfSpan(first, last);
    if (!units.length) return fill("found", element("p", {}, say("span_empty", { text })));
    const own = units.find((one) => one.unit === view.unit) ?? units[0];
    const others = matches(own, first, last);
    const item = (one) =>
      element(
        "li",
        {},
        element(
          "button",
          {
            type: "button",
            "data-unit": one.unit,
            "data-sign": one.sign,
            "data-margin": one.margin,
            "aria-pressed": one === own,
            onclick: () => choose({ unit: one.unit }),
          },
          say("span_unit", {
            unit: one.unit,
            sign: say(one.sign > 0 ? "on_high" : "on_low"),
            margin: one.margin.toFixed(2),
          }),
        ),
      );
    const place = ([from, to]) =>
      element(
        "li",
        {},
        element(
          "button",
          {
            type: "button",
            "data-first": from,
            "data-last": to,
            onclick: () => choose({ step: to, pinned: true, span: [from, to], from }),
          },
          say("match", { text: [...spanText(from, to)].map(named).join(""), first: from, last: to }),
        ),
      );
    fill(
      "found",
      element("p", {}, say("span_found", { text, first, last })),
      element("ul", { class: "plain", id: "span-units" }, ...units.slice(0, 12).map(item)),
      element("h3", {}, say("matches", { unit: own.unit })),
      others.length
        ? element("ul", { class: "plain", id: "places" }, ...others.map(place))
        : element("p", {}, say("matches_none")),
    );
  }

  function experiment() {
    const number = (id, value) =>
      element("input", { type: "number", id, step: "any", value, "aria-label": say(id === "held" ? "hold" : "edit") });
    const gate = element(
      "select",
      { id: "gate", "aria-label": say("hold") },
      element("option", { value: "" }, "—"),
      ...GATES.map((name) => element("option", { value: name }, say(name))),
    );
    const off = element("input", { type: "checkbox", id: "off" });
    return section(
      "experiment",
      say("experiment"),
      element("p", { class: "quiet" }, say("experiment_lead")),
      element(
        "div",
        { class: "controls" },
        element("label", {}, `${say("hold")} `, gate),
        `${say("at")} `,
        number("held", "1"),
        say("from_here"),
      ),
      element("div", { class: "controls" }, `${say("edit")} `, number("edited", "")),
      element("div", { class: "controls" }, element("label", {}, off, ` ${say("off")}`)),
      element("button", { type: "button", id: "try", onclick: showExperiment }, say("try")),
      element("div", { id: "after" }),
    );
  }

  function showExperiment() {
    const value = (id) => document.getElementById(id).value;
    const { unit, step } = view;
    const changes = [];
    if (value("gate") && value("held") !== "")
      changes.push((layer) => layer.hold(value("gate"), unit, Number(value("held"))));
    if (value("edited") !== "") changes.push((layer) => (layer.cell[unit] = Number(value("edited"))));
    if (document.getElementById("off").checked) changes.push((layer) => layer.hold("hidden", unit, 0));
    const usual = continuation(step, () => {});
    if (!changes.length) return fill("after", element("p", {}, say("nothing")), element("pre", { id: "as-is" }, usual));
    const changed = continuation(step, (layer) => changes.forEach((change) => change(layer)));
    fill(
      "after",
      element("h3", {}, say("as_is")),
      element("pre", { id: "as-is" }, usual),
      element("h3", {}, say("changed")),
      element("pre", { id: "with-change" }, changed),
      ...(usual === changed ? [element("p", {}, say("same"))] : []),
    );
  }

  function training() {
    const input = element("input", {
      type: "range",
      id: "checkpoint",
      min: 0,
      max: data.checkpoints.length - 1,
      value: data.checkpoints.length - 1,
      oninput: () => showCheckpoint(Number(input.value)),
    });
    queueMicrotask(() => showCheckpoint(data.checkpoints.length - 1));
    return section(
      "training",
      say("training"),
      element("p", { class: "quiet", id: "training-lead" }),
      element(
        "div",
        { class: "controls" },
        element("label", {}, `${say("time")} `, input),
        element("output", { id: "label" }),
      ),
      element("div", { id: "cells", class: "scroll" }),
    );
  }

  function showCheckpoint(index) {
    const { label, steps, units, cell } = data.checkpoints[index];
    const values = floatsOf(cell);
    fill("label", label);
    fill("training-lead", say("training_lead", { units: units.length, steps }));
    const texts = steps <= data.texts.length ? data.texts : null;
    fill(
      "cells",
      heatMap(
        units,
        steps,
        (t, unit) => values[t * units.length + units.indexOf(unit)],
        0,
        Math.min(steps, 2 * WINDOW) - 1,
        texts,
      ),
    );
    document.getElementById("cells").dataset.values = JSON.stringify([...values]);
  }

  function comparison() {
    const width = 720;
    const height = 220;
    const lines = Object.entries(data.compare);
    const logs = lines.map(([label, norms]) => [label, norms.map((norm) => Math.log10(Math.max(norm, 1e-38)))]);
    const all = logs.flatMap(([, values]) => values);
    const highest = Math.ceil(Math.max(...all));
    const lowest = Math.max(Math.floor(Math.min(...all)), highest - 16);
    const longest = Math.max(...logs.map(([, values]) => values.length));
    const x = (d) => 40 + (d / Math.max(longest - 1, 1)) * (width - 50);
    const y = (value) => 10 + ((highest - Math.max(value, lowest)) / Math.max(highest - lowest, 1)) * (height - 40);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height + 16}`, role: "img", "aria-label": say("comparison") });
    for (let power = lowest; power <= highest; power += Math.max(1, Math.round((highest - lowest) / 4)))
      chart.append(
        svg("line", { class: "axis", x1: 40, x2: width, y1: y(power), y2: y(power) }),
        svg("text", { x: 0, y: y(power) + 4 }, `10^${power}`),
      );
    logs.forEach(([label, all], index) => {
      const end = all.findIndex((value) => value < lowest);
      const values = all.slice(0, end < 0 ? all.length : Math.max(end, 1)); // a line ends where it leaves the chart
      chart.append(
        svg("polyline", {
          class: index ? "other" : "curve",
          points: values.map((value, d) => `${x(d)},${y(value)}`).join(" "),
        }),
      );
      chart.append(
        svg(
          "text",
          end < 0
            ? { x: width - 10, y: y(values.at(-1)) + (index ? 14 : -6), "text-anchor": "end" }
            : { x: x(values.length) + 6, y: y(values.at(-1)) - 4 },
          label,
        ),
      );
    });
    chart.append(svg("text", { x: width / 2, y: height + 12, "text-anchor": "middle" }, say("distance")));
    return section(
      "comparison",
      say("comparison"),
      element("p", { class: "quiet" }, say("comparison_lead")),
      element("div", { class: "scroll" }, chart),
    );
  }

  build();
  readStored();
  document.documentElement.dataset.ready = "true";
})();
