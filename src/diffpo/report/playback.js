/* Without this script every puzzle shows its final grid, with the call that committed each cell in its corner. */
for (const puzzle of document.querySelectorAll(".puzzle")) {
  const controls = puzzle.querySelector(".controls");
  const [button, slider, output] = ["button", "input", "output"].map((name) => controls.querySelector(name));
  const cells = [...puzzle.querySelectorAll(".cell")];
  const last = Number(slider.max);
  let timer = null;

  const show = (calls) => {
    slider.value = calls;
    output.textContent = `after ${calls} of ${last} calls`;
    for (const cell of cells) {
      const call = Number(cell.dataset.call);
      cell.classList.toggle("masked", call > calls);
      cell.classList.toggle("now", call === calls && (timer !== null || calls < last));
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };

  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    show(0);
    button.textContent = "Stop";
    timer = setInterval(() => {
      const calls = Number(slider.value) + 1;
      if (calls > last) {
        stop();
        show(last);
      } else show(calls);
    }, 600);
  });
  controls.hidden = false;
  show(last);
}
