"use strict";
// The viewer: which face, which frame, which method, which view. Everything else on the page is
// plain HTML; texts are only ever set as text.
(() => {
  const frames = JSON.parse(document.getElementById("data").textContent);
  if (!frames.length) return;
  const $ = (id) => document.getElementById(id);
  const slider = $("slider"), timeline = $("timeline");
  const picked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
  const pick = (name, value) => {
    const input = document.querySelector(`input[name="${name}"][value="${value}"]`);
    if (input) input.checked = true;
  };
  const make = (tag, text, parent, name) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  };
  const captions = {
    heat: "Yellow: matters most. Outlined: the best regions, 1 first.",
    original: "The crop, as the detector is shown it at its own size.",
    outlines: "The best regions, 1 first.",
    difference: "What was added to make the detector say real. Grey: nothing; black and white: most.",
  };
  let shown = [], now = 0;

  function choose() {
    const before = shown[now];
    shown = frames.filter((frame) => String(frame.track) === picked("face"));
    slider.max = shown.length - 1;
    show(before ? nearest(before.time) : Math.max(shown.findIndex((f) => f.explained), 0));
  }

  function nearest(time) {
    const away = shown.map((frame) => Math.abs(frame.time - time));
    return away.indexOf(Math.min(...away));
  }

  // One picture: the crop, and on it what the view asks for.
  function layers(stage, frame, method, view) {
    const [crop, layer, drawn] = stage.children;
    crop.src = frame.crop;
    const heat = method?.heat, difference = frame.difference;
    layer.hidden = !((view === "heat" && heat) || (view === "difference" && difference));
    if (!layer.hidden) layer.src = view === "heat" ? heat : difference;
    drawn.replaceChildren();
    drawn.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    if (view !== "heat" && view !== "outlines") return;
    for (const line of method?.outlines ?? []) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", line.path);
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      text.setAttribute("x", line.x);
      text.setAttribute("y", line.y);
      text.setAttribute("font-size", frame.height / 20);
      text.style.fontSize = `${frame.height / 18}px`;
      text.textContent = line.rank;
      drawn.append(path, text);
    }
  }

  function show(index) {
    now = Math.min(Math.max(index, 0), shown.length - 1);
    const frame = shown[now], method = frame.methods[picked("method")], view = picked("view");
    slider.value = now;
    const title = `${frame.time.toFixed(2)} s, face ${frame.track}: ${frame.decided}`;
    slider.setAttribute("aria-valuetext", title);
    $("now").textContent = title;
    layers($("stage"), frame, method, view);
    $("caption").textContent = view === "difference" && !frame.difference
      ? "No adversarial sample was made for this frame." : captions[view];
    const best = (method?.regions ?? []).map((r) => r.part ?? `region ${r.region}`);
    $("stage").children[0].alt = best.length
      ? `Face ${frame.track} at ${frame.time.toFixed(2)} s; best regions: ${best.join(", ")}`
      : `Face ${frame.track} at ${frame.time.toFixed(2)} s`;
    const head = timeline.querySelector("#playhead"), x = `${frame.at}%`;
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    $("facts").replaceChildren();
    for (const [name, value] of [...frame.facts, ...(method?.facts ?? [])]) {
      make("dt", name, $("facts"));
      make("dd", value, $("facts"));
    }
    $("regions").replaceChildren();
    const most = Math.max(...(method?.regions ?? []).map((r) => Math.abs(r.score)), 1e-12);
    for (const region of method?.regions ?? []) {
      const row = make("li", "", $("regions"));
      make("b", region.rank, row);
      make("span", region.part ?? `region ${region.region}`, row);
      make("i", "", row).style.width = `${(100 * Math.abs(region.score)) / most}%`;
      make("span", region.score.toPrecision(2), row, "score");
    }
    $("none").hidden = Boolean(method);
    $("none").textContent = frame.explained ? "" : frame.why;
    for (const tile of document.querySelectorAll("figure[data-method]")) {
      const other = frame.methods[tile.dataset.method];
      layers(tile.querySelector(".stage"), frame, other, view === "original" ? "original" : "heat");
      tile.querySelector("span").textContent = other ? other.short : frame.why;
    }
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  $("back").addEventListener("click", () => show(now - 1));
  $("on").addEventListener("click", () => show(now + 1));
  for (const input of document.querySelectorAll('.choice input')) {
    input.addEventListener("change", () => (input.name === "face" ? choose() : show(now)));
  }
  const point = (event) => {
    const box = timeline.getBoundingClientRect();
    const at = (100 * (event.clientX - box.left)) / box.width;
    const away = shown.map((frame) => Math.abs(frame.at - at));
    show(away.indexOf(Math.min(...away)));
  };
  timeline.addEventListener("pointerdown", point);
  timeline.addEventListener("pointermove", (event) => event.buttons && point(event));
  for (const link of document.querySelectorAll("a[data-frame]")) {
    link.addEventListener("click", () => {
      const frame = frames.find((other) => other.id === link.dataset.frame);
      pick("face", frame.track);
      pick("method", link.dataset.method);
      choose();
      show(shown.indexOf(frame));
    });
  }
  choose();
})();
