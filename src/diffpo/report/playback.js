/* Without this script every completion is shown whole, with the call that committed each token. */
const player = document.querySelector(".player");
if (player) {
  const [play, back, forth] = player.querySelectorAll(".controls button");
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  const last = Number(slider.max);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const lanes = [...player.querySelectorAll("[data-lane]")].map((tally) => ({
    tally,
    boards: [...player.querySelectorAll(`${tally.dataset.within} .board-of[data-of="${tally.dataset.lane}"]`)],
  }));
  const byCall = Array.from({ length: last + 1 }, () => []);
  for (const token of player.querySelectorAll("[data-call]")) byCall[Number(token.dataset.call)].push(token);
  const boards = [...player.querySelectorAll(".board-of")];
  let now = last;
  let timer = null;

  const show = (call) => {
    call = Math.min(Math.max(call, 0), last);
    for (const token of byCall[now]) token.classList.remove("now");
    for (let c = Math.min(now, call) + 1; c <= Math.max(now, call); c++)
      for (const token of byCall[c]) token.classList.toggle("masked", c > call);
    if (call < last || timer !== null) for (const token of byCall[call]) token.classList.add("now");
    now = call;
    slider.value = call;
    const words = `call ${call} of ${last}`;
    output.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    for (const board of boards) board.classList.toggle("pending", Number(board.dataset.nfe) > call);
    for (const { tally, boards } of lanes) {
      const done = boards.filter((board) => Number(board.dataset.nfe) <= call);
      const solved = done.filter((board) => board.dataset.solved === "1").length;
      tally.textContent = `${solved} of ${boards.length} solved`;
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
  };
  const step = (call) => {
    stop();
    show(call);
  };
  const start = () => {
    if (now === last) show(0);
    play.textContent = "❚❚ Pause";
    /* About ten seconds for all calls; with less motion half as fast, and CSS fades nothing in. */
    const pause = Math.min(Math.max(9600 / last, 60), 600) * (still.matches ? 2 : 1);
    timer = setInterval(() => {
      show(now + 1);
      if (now === last) step(last);
    }, pause);
  };
  const toggle = () => (timer === null ? start() : step(now));
  const keys = {
    " ": toggle,
    ArrowRight: () => step(now + 1),
    ArrowLeft: () => step(now - 1),
    Home: () => step(0),
    End: () => step(last),
  };

  play.addEventListener("click", toggle);
  back.addEventListener("click", () => step(now - 1));
  forth.addEventListener("click", () => step(now + 1));
  slider.addEventListener("input", () => step(Number(slider.value)));
  player.addEventListener("keydown", (event) => {
    const isButton = event.key === " " && event.target.closest("button, summary");
    if (isButton || !(event.key in keys) || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  player.querySelector(".controls").hidden = false;
  show(last);
}
