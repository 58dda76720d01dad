"use strict";

// A study of pairs: which pair comes when and on which side is drawn from the study's seed and the rater's code, so
// that a page that was closed goes on where it was. Nothing leaves the browser but the file that the rater saves.

const COLUMNS = ["study", "rater", "trial", "question", "left", "right", "choice", "seconds", "order"];
const TIE = "tie";

function hashed(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value;
}

function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, next) {
  const result = list.slice();
  for (let last = result.length - 1; last > 0; last -= 1) {
    const other = Math.floor(next() * (last + 1));
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

// The pairs in the rater's order with their sides: as many one way round as the other, and a pair that comes again
// comes late, with its sides exchanged.
function plan(study, rater) {
  const next = generator(hashed(`${study.study}\n${study.seed}\n${rater}`));
  const repeated = new Set(study.trials.map((trial) => trial.again).filter((name) => name !== null));
  const firsts = study.trials.filter((trial) => trial.again === null);
  const free = shuffled(firsts.filter((trial) => !repeated.has(trial.trial)), next);
  const early = Math.max(0, Math.ceil(firsts.length / 2) - repeated.size);
  const head = shuffled([...firsts.filter((trial) => repeated.has(trial.trial)), ...free.slice(0, early)], next);
  const order = [...head, ...free.slice(early)];
  const exchange = shuffled(order.map((_, index) => index % 2 === 1), next);
  const shown = new Map();
  order.forEach((trial, index) => {
    const [left, right] = exchange[index] ? [trial.files[1], trial.files[0]] : trial.files;
    shown.set(trial.trial, { ...trial, left, right });
  });
  const again = shuffled(study.trials.filter((trial) => trial.again !== null), next);
  return [
    ...order.map((trial) => shown.get(trial.trial)),
    ...again.map((trial) => ({ ...trial, left: shown.get(trial.again).right, right: shown.get(trial.again).left })),
  ];
}

function quoted(cell) {
  const text = String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function answersCsv(study, rater, pairs, answers) {
  const lines = [COLUMNS.join(",")];
  pairs.forEach((pair, index) => {
    for (const question of study.questions) {
      const answer = (answers[pair.trial] || {})[question.key];
      if (!answer) continue;
      const choice = answer.side === TIE ? TIE : pair[answer.side];
      const cells = [study.study, rater, pair.trial, question.key, pair.left, pair.right, choice, answer.seconds, index + 1];
      lines.push(cells.map(quoted).join(","));
    }
  });
  return `${lines.join("\n")}\n`;
}

function isComplete(study, answers, pair) {
  return study.questions.every((question) => (answers[pair.trial] || {})[question.key]);
}

function startPage() {
  const at = (id) => document.getElementById(id);
  const study = JSON.parse(at("study").textContent);
  const left = at("left");
  const right = at("right");
  const song = at("song");
  const state = { rater: "", pairs: [], answers: {}, index: 0, question: 0, sound: "left", since: 0, unsaved: false };

  const storageKey = () => `macedance-study-${study.study}-${state.rater}`;
  function remember() {
    try {
      localStorage.setItem(storageKey(), JSON.stringify(state.answers));
    } catch {
      at("saved").textContent = "This browser keeps nothing: save before you close the page.";
    }
  }
  function recall() {
    try {
      return JSON.parse(localStorage.getItem(storageKey()) || "{}");
    } catch {
      return {};
    }
  }

  const pair = () => state.pairs[state.index];
  const given = () => state.answers[pair().trial] || {};
  function seconds(video) {
    let total = 0;
    for (let range = 0; range < video.played.length; range += 1) total += video.played.end(range) - video.played.start(range);
    return total;
  }
  const isWatched = (video) => video.error !== null || seconds(video) >= Math.min(study.watch_s, (video.duration || Infinity) - 0.3);
  const mayAnswer = () => Object.keys(given()).length > 0 || (isWatched(left) && isWatched(right));

  function showQuestions() {
    const allowed = mayAnswer();
    const box = at("questions");
    const focused = box.querySelector("button:focus-visible");
    box.replaceChildren();
    study.questions.forEach((question, index) => {
      const row = document.createElement("div");
      row.className = index === state.question ? "question now" : "question";
      const text = document.createElement("span");
      text.textContent = question.text;
      const choices = document.createElement("span");
      choices.className = "choices";
      for (const [side, label] of [["left", "Left"], [TIE, "No difference"], ["right", "Right"]]) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = label;
        button.disabled = !allowed;
        button.setAttribute("aria-pressed", String((given()[question.key] || {}).side === side));
        button.setAttribute("aria-label", `${question.text} ${label}`);
        button.dataset.choice = `${question.key}:${side}`;
        button.addEventListener("click", () => { state.question = index; choose(side); });
        choices.append(button);
      }
      row.append(text, choices);
      box.append(row);
    });
    // Whoever goes from button to button by the keyboard stays where they were.
    if (focused) box.querySelector(`[data-choice="${focused.dataset.choice}"]`).focus({ focusVisible: true });
    at("notice").textContent = allowed ? "" : "Watch both videos first.";
    at("next").disabled = !isComplete(study, state.answers, pair());
    at("next").textContent = state.index + 1 < state.pairs.length ? "Next pair" : "Finish";
    at("back").disabled = state.index === 0;
  }

  function choose(side) {
    if (!mayAnswer()) return;
    const question = study.questions[state.question];
    const taken = Math.round((performance.now() - state.since) / 100) / 10;
    state.answers[pair().trial] = { ...given(), [question.key]: { side, seconds: taken } };
    state.unsaved = true;
    remember();
    const open = study.questions.findIndex((other) => !given()[other.key]);
    state.question = open >= 0 ? open : Math.min(state.question + 1, study.questions.length - 1);
    showQuestions();
    at("questions").querySelector(".now").scrollIntoView({ block: "nearest" });
  }

  function setSound(where) {
    state.sound = where;
    const hasSong = Boolean(pair().song);
    left.muted = hasSong || where !== "left";
    right.muted = hasSong || where !== "right";
    song.muted = where === "off";
    at("sound").textContent = hasSong ? `Sound: ${where === "off" ? "off" : "on"}` : `Sound: ${where}`;
  }
  function changeSound() {
    if (pair().song) setSound(state.sound === "off" ? "left" : "off");
    else setSound(state.sound === "left" ? "right" : "left");
  }
  const players = () => (pair().song ? [left, right, song] : [left, right]);
  function playOrPause() {
    if (left.paused && right.paused) {
      if (pair().song) song.currentTime = left.currentTime;
      for (const player of players()) player.play().catch(() => {});
    } else {
      for (const player of players()) player.pause();
    }
  }
  function fromTheStart() {
    for (const player of players()) {
      player.currentTime = 0;
      player.play().catch(() => {});
    }
  }

  function showPair() {
    const shown = pair();
    left.src = `media/${shown.left}.mp4`;
    right.src = `media/${shown.right}.mp4`;
    if (shown.song) song.src = `media/${shown.song}`;
    else song.removeAttribute("src");
    at("reference").hidden = !shown.reference;
    if (shown.reference) at("reference").querySelector("img").src = `media/${shown.reference}`;
    state.question = Math.max(0, study.questions.findIndex((question) => !given()[question.key]));
    state.since = performance.now();
    setSound("left");
    at("progress").textContent = `Pair ${state.index + 1} of ${state.pairs.length}`;
    showQuestions();
    window.scrollTo(0, 0);
  }

  function goOn() {
    if (!isComplete(study, state.answers, pair())) return;
    for (const player of players()) player.pause();
    if (state.index + 1 < state.pairs.length) {
      state.index += 1;
      showPair();
      return;
    }
    at("pair").hidden = true;
    at("end").hidden = false;
    at("progress").textContent = `All ${state.pairs.length} pairs are done.`;
    at("save").focus();
  }
  function goBack() {
    if (state.index === 0) return;
    for (const player of players()) player.pause();
    state.index -= 1;
    showPair();
  }

  function save() {
    const text = answersCsv(study, state.rater, state.pairs, state.answers);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `study-${study.study}-${state.rater}.csv`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    state.unsaved = false;
    at("saved").textContent = `Saved as ${link.download}.`;
  }

  at("who").addEventListener("submit", (event) => {
    event.preventDefault();
    state.rater = at("rater").value.trim();
    if (!state.rater) return;
    state.pairs = plan(study, state.rater);
    state.answers = recall();
    const open = state.pairs.findIndex((shown) => !isComplete(study, state.answers, shown));
    state.index = open >= 0 ? open : state.pairs.length - 1;
    at("start").hidden = true;
    at("pair").hidden = false;
    at("saving").hidden = false;
    document.activeElement.blur();
    showPair();
  });
  at("play").addEventListener("click", playOrPause);
  at("again").addEventListener("click", fromTheStart);
  at("sound").addEventListener("click", changeSound);
  at("next").addEventListener("click", goOn);
  at("back").addEventListener("click", goBack);
  at("save").addEventListener("click", save);
  for (const video of [left, right]) {
    let allowed = false;
    video.addEventListener("loadstart", () => { allowed = mayAnswer(); });
    for (const event of ["timeupdate", "ended", "error"]) {
      video.addEventListener(event, () => {
        if (allowed !== mayAnswer()) {
          allowed = mayAnswer();
          showQuestions();
        }
      });
    }
    video.addEventListener("ended", () => { if (left.ended && right.ended) song.pause(); });
    video.addEventListener("error", () => { at("notice").textContent = "A video cannot be played; tell whoever runs the study."; });
  }
  document.addEventListener("keydown", (event) => {
    if (at("pair").hidden || event.ctrlKey || event.altKey || event.metaKey) return;
    const focused = document.activeElement;
    const onButton = focused instanceof HTMLButtonElement;
    const actions = {
      " ": playOrPause, r: fromTheStart, s: changeSound, ArrowLeft: () => choose("left"), ArrowDown: () => choose(TIE),
      ArrowRight: () => choose("right"), Enter: goOn,
      ArrowUp: () => { state.question = Math.max(0, state.question - 1); showQuestions(); },
    };
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(name in actions) || (onButton && (name === " " || name === "Enter"))) return;
    event.preventDefault();
    actions[name]();
  });
  window.addEventListener("beforeunload", (event) => { if (state.unsaved) event.preventDefault(); });
}

if (typeof document !== "undefined") startPage();
if (typeof module !== "undefined") module.exports = { plan, answersCsv, isComplete, shuffled, generator, hashed };
