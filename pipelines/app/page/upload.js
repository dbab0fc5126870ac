// A file of the user, read in the browser: the value is a data URL. Props: max_bytes.
element.addEventListener("change", event => {
  const file = event.target.files && event.target.files[0];
  const said = element.querySelector("[role=alert]");
  if (!file) return;
  if (file.size > props.max_bytes) {
    said.textContent = `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ` +
      `${(props.max_bytes / 1e6).toFixed(0)} MB are read`;
  } else {
    said.textContent = "";
    const reader = new FileReader();
    reader.onload = () => { props.value = reader.result; trigger("upload"); };
    reader.onerror = () => { said.textContent = `${file.name} cannot be read`; };
    reader.readAsDataURL(file);
  }
  event.target.value = "";  // or the same file could not be chosen again
});
