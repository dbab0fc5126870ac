// Buttons, of which one is chosen: the value is its data-choice.
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-choice]");
  if (!button) return;
  props.value = button.dataset.choice;
  trigger("select");
});
